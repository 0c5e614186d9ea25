//! What is different when a workshop asks, not a campaign: whose lease it is, whose consent, and who holds the vehicle.

use std::time::{Duration, Instant};

use pitstop_dbus::{OtaError, Result};
use pitstop_runtime::operation::patiently;
use pitstop_types::UpdateId;
use zbus::OwnedObjectPath;
use zbus::names::OwnedUniqueName;

use crate::ports::Peers;
use crate::service::Service;

/// How long the gateway may take to acknowledge the drive inhibit: it is asked every 100 ms and shows its state as often.
const INHIBIT_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

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
        self.stage(update.as_str(), &expected, attempt, sender).await
    }

    /// Only while the vehicle stands, as the restart that follows: refused after this, the restart would leave a slot behind that the next
    /// start tries without anybody asking.
    pub async fn activate_for_workshop(&self, update: &UpdateId) -> Result<()> {
        self.check_standstill().await?;
        self.activate(update.as_str()).await
    }

    async fn check_standstill(&self) -> Result<()> {
        let (standstill, _, reason) = self.peers.check_safe().await?;
        if standstill { Ok(()) } else { Err(OtaError::NotSafe(reason)) }
    }

    /// Restarts if the vehicle stands and is held. The authenticated tester stands for the driver's answer; standing cannot be vouched
    /// for by anybody but the vehicle. The inhibit is kept over the restart and released when the update has ended.
    pub async fn reboot_for_workshop(&self, update: &UpdateId) -> Result<()> {
        let (mine, due) = {
            let update = update.clone();
            let ask = move |core: &mut crate::core::Core| {
                (core.workshop().is_some_and(|now| now.update == update), core.reboot_due())
            };
            self.core.ask(ask).await?
        };
        if !mine || !due {
            return Err(OtaError::WrongPhase("no restart is due: nothing was activated or rolled back".to_owned()));
        }
        self.check_standstill().await?;
        let restarted = self.restart_held(update).await;
        // Also when the inhibit itself was refused: the request may have been recorded without an answer.
        if restarted.is_err() {
            self.let_go(update).await;
        }
        restarted
    }

    async fn restart_held(&self, update: &UpdateId) -> Result<()> {
        self.peers.request_inhibit(update.as_str()).await?;
        self.await_inhibit().await?;
        self.run_reboot(update).await
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

    /// Lets the vehicle drive again. If that cannot be said now it is said after the next start.
    pub async fn let_go(&self, update: &UpdateId) {
        if let Err(error) = self.peers.release_inhibit(update.as_str()).await {
            log::warn!(update = update.as_str(); "the drive inhibit is not released yet: {error}");
        }
    }

    /// Takes the results of its staging away: nobody acknowledges them, and the same package may come again.
    pub async fn forget(&self, update: &UpdateId) {
        self.operations.release(update.as_str()).await;
    }

    /// After a start: an update that ended before, by a fall-back or by what this start is for, holds the vehicle no longer.
    pub async fn let_go_of_ended(&self) {
        let ended = self.core.ask(|core| {
            let due = core.reboot_due();
            core.workshop().filter(|now| now.phase.is_end() && !due).map(|now| now.update.clone())
        });
        let Ok(Some(update)) = ended.await else { return };
        self.forget(&update).await;
        if let Err(error) = patiently(|| self.peers.release_inhibit(update.as_str())).await {
            log::warn!(update = update.as_str(); "the drive inhibit is not released: {error}");
        }
    }
}

#[cfg(test)]
#[path = "workshop_tests.rs"]
mod tests;
