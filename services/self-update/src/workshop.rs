//! What is different when a workshop asks, not a campaign: whose lease it is, whose consent, and who holds the vehicle.

use std::time::{Duration, Instant};

use pitstop_dbus::{OtaError, Result};
use pitstop_types::UpdateId;
use tokio::sync::{Mutex, Notify};
use zbus::OwnedObjectPath;
use zbus::names::OwnedUniqueName;

use crate::ports::Peers;
use crate::service::Service;

/// How long the gateway may take to acknowledge the drive inhibit: it is asked every 100 ms and shows its state as often.
const INHIBIT_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries to let the vehicle go: vehicle-state is away for the seconds that its start takes.
const RESPITE: Duration = Duration::from_secs(5);

/// What keeps holding the vehicle and letting it go apart.
#[derive(Default)]
pub struct Holds {
    /// Held from the request of the drive inhibit to the act it is for: before that act the record says nothing of a vehicle to be held.
    act: Mutex<()>,
    /// A release could not be said.
    unreleased: Notify,
}

impl<P: Peers> Service<P> {
    /// Id, phase and version of the workshop's update in the slots.
    pub async fn workshop_update(&self) -> Result<(String, String, String)> {
        let found = self.core.ask(|core| core.workshop().cloned()).await?;
        let words = |now: pitstop_slots::Installation| {
            (now.update.to_string(), now.phase.to_string(), now.image.version.to_string())
        };
        Ok(found.map(words).unwrap_or_default())
    }

    /// Whether no campaign's update holds the slots.
    pub async fn check_free(&self) -> Result<()> {
        Ok(self.core.ask(|core| core.check_free(Instant::now())).await??)
    }

    /// Stages whatever runs now: a workshop mends a TCU of which nobody may know what it runs.
    pub async fn stage_for_workshop(
        self: &std::sync::Arc<Self>,
        update: &UpdateId,
        attempt: u32,
        sender: Option<OwnedUniqueName>,
    ) -> Result<OwnedObjectPath> {
        let expected = match self.get_release(self.booted.as_str()).await {
            Ok(release) => release.version.to_string(),
            Err(OtaError::NotFound(_)) => String::new(),
            Err(other) => return Err(other),
        };
        // Earlier attempts were used or given up. What runs stays: it may be this very request, made again.
        if !self.operations.is_running(|key| key.update == update.as_str()) {
            self.forget(update).await;
        }
        self.stage(update.as_str(), &expected, attempt, sender).await
    }

    /// Only while the vehicle stands and is held for the restart that follows: refused after this, the restart would leave a slot behind
    /// that the next start, perhaps on the road, tries without anybody asking. Whatever fails lets the vehicle go and leaves no such slot.
    ///
    /// Errors: not safe, or the activation's own.
    pub async fn activate_for_workshop(&self, update: &UpdateId) -> Result<()> {
        let of = update.clone();
        if !self.core.ask(move |core| core.is_before_its_try(&of)).await? {
            // It is further on already, or refused by name: nothing to hold the vehicle for.
            return self.activate(update.as_str()).await;
        }
        self.while_held(update, self.activate(update.as_str())).await
    }

    async fn check_standstill(&self) -> Result<()> {
        let (standstill, _, reason) = self.peers.check_safe().await?;
        if standstill { Ok(()) } else { Err(OtaError::NotSafe(reason)) }
    }

    /// Restarts if the vehicle stands and is held. The authenticated tester stands for the driver's answer; standing cannot be vouched
    /// for by anybody but the vehicle. The inhibit is kept over the restart and released when the update has ended. A restart that is
    /// refused or fails takes the activation back: what is in the slot is staged again then.
    ///
    /// Errors: no restart is due, not safe, or the restart command's.
    pub async fn reboot_for_workshop(&self, update: &UpdateId) -> Result<()> {
        self.check_due(update).await?;
        self.while_held(update, self.run_reboot(update)).await
    }

    /// Holds the vehicle, then lets `act` happen. Whatever fails is taken back; otherwise the vehicle stays held.
    async fn while_held(&self, update: &UpdateId, act: impl Future<Output = Result<()>>) -> Result<()> {
        let _act = self.holds.act.lock().await;
        let done = match self.hold(update).await {
            Ok(()) => act.await,
            refused => refused,
        };
        if done.is_err() {
            self.take_back(update).await;
        }
        done
    }

    /// A restart that does not come must leave no slot behind that a later start tries. Only then may the vehicle drive again; also when
    /// the inhibit itself was refused, since the request may have been recorded without an answer.
    async fn take_back(&self, update: &UpdateId) {
        let of = update.clone();
        let disarmed = self.core.ask(move |core| core.disarm(&of).map_err(OtaError::from)).await.flatten();
        match disarmed {
            Ok(true) => {
                log::warn!(update = update.as_str(); "the restart did not come: the slot is not tried any more");
                self.forget(update).await;
            }
            Ok(false) => {}
            Err(error) => {
                log::error!(update = update.as_str(); "the next start may try the slot, so the vehicle stays held: {error}");
                return;
            }
        }
        self.let_go(update).await;
    }

    /// Holds the vehicle where it stands; returns when the gateway has acknowledged it.
    async fn hold(&self, update: &UpdateId) -> Result<()> {
        self.check_standstill().await?;
        self.peers.request_inhibit(update.as_str()).await?;
        self.await_inhibit().await
    }

    async fn await_inhibit(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + INHIBIT_PATIENCE;
        loop {
            let (standstill, inhibited, reason) = self.peers.check_safe().await?;
            if standstill && inhibited {
                return Ok(());
            }
            if !standstill || tokio::time::Instant::now() >= deadline {
                return Err(OtaError::NotSafe(reason));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets the vehicle drive again. If that cannot be said now it is said as soon as it can be.
    pub async fn let_go(&self, update: &UpdateId) {
        if let Err(error) = self.peers.release_inhibit(update.as_str()).await {
            log::warn!(update = update.as_str(); "the drive inhibit is not released yet: {error}");
            self.holds.unreleased.notify_one();
        }
    }

    /// Takes the results of its staging away: nobody acknowledges them, and the same package may come again.
    pub async fn forget(&self, update: &UpdateId) {
        self.operations.release(update.as_str()).await;
    }

    /// Lets the vehicle go where no update holds it any more: after a start, and whenever a release could not be said. Never ends.
    pub async fn look_after_holds(&self) {
        loop {
            while let Err(error) = self.release_left().await {
                log::debug!("who holds the vehicle is not settled yet: {error}");
                tokio::time::sleep(RESPITE).await;
            }
            self.holds.unreleased.notified().await;
        }
    }

    /// Releases what was requested for any workshop's update that does not go on: it ended, it was never activated, or the record that
    /// knew it is lost. Vehicle-state knows better than any record who holds the vehicle; campaigns are the manager's business.
    ///
    /// Errors: not all is released.
    pub(crate) async fn release_left(&self) -> Result<()> {
        let _act = self.holds.act.lock().await;
        let mut all = Ok(());
        for owner in self.peers.inhibit_owners().await? {
            let Ok(owner) = UpdateId::new(owner) else { continue };
            let of = owner.clone();
            if !owner.is_workshop() || self.core.ask(move |core| core.holds(&of)).await? {
                continue;
            }
            match self.peers.release_inhibit(owner.as_str()).await {
                Ok(()) => log::info!(update = owner.as_str(); "its update does not go on: the vehicle may drive"),
                failed => all = failed,
            }
        }
        all
    }
}

#[cfg(test)]
#[path = "workshop_tests.rs"]
mod tests;
