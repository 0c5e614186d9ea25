//! Record and boot environment, kept in step: the record is stored before the boot loader is told, and told again after a cut.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pitstop_boot_env::{BootEnv, BootEnvError};
use pitstop_dbus::OtaError;
use pitstop_slots::{BootVars, Effect, Health, Installation, Phase, PhaseError, SlotImage, SlotPair, SlotRecord};
use pitstop_store::{Document, Storage, StoreError};
use pitstop_types::{SlotName, UpdateId};
use tokio::sync::{mpsc, oneshot};

/// Format of the stored record.
const FORMAT: u32 = 1;
/// Jobs that may wait; each is a call that somebody waits for.
const QUEUE: usize = 32;

/// Why a call to the slots failed.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error(transparent)]
    Phase(#[from] PhaseError),
    #[error(transparent)]
    Env(#[from] BootEnvError),
    #[error("storing the slot record")]
    Store(#[from] StoreError),
    #[error("{owner} holds the slots for update {update} for another {} s", .left.as_secs())]
    Leased { owner: String, update: UpdateId, left: Duration },
    #[error("this TCU has no slot beside {0}")]
    Slots(SlotName),
}

impl From<CoreError> for OtaError {
    fn from(error: CoreError) -> Self {
        let text = chain(&error);
        match error {
            CoreError::Phase(_) => Self::WrongPhase(text),
            CoreError::Env(_) => Self::BootEnvironment(text),
            CoreError::Store(_) => Self::Storage(text),
            CoreError::Leased { .. } => Self::Busy(text),
            CoreError::Slots(_) => Self::Internal(text),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Who holds the slots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    owner: String,
    update: UpdateId,
    until: Instant,
}

/// What [`Core::stage`] asks of its caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Staging {
    /// The slot holds the image already.
    Done,
    /// The target is marked bad and recorded: write this slot.
    Write(SlotName),
}

/// What both slots look like to record and boot loader.
#[derive(Debug, Clone)]
pub struct View {
    pub booted: SlotName,
    /// `None`: the boot environment cannot be read.
    pub vars: Option<BootVars>,
    pub record: SlotRecord,
}

/// The slots' owner. Its calls do small durable writes and return; writing an image is its caller's work.
pub struct Core {
    slots: SlotPair,
    booted: SlotName,
    env: Box<dyn BootEnv + Send>,
    document: Document<SlotRecord>,
    record: SlotRecord,
    lease: Option<Lease>,
    /// The slot that runs has been put beside the record, and the boot environment follows it.
    settled: bool,
}

fn document(storage: Arc<dyn Storage>) -> Document<SlotRecord> {
    Document::new(storage, "slots", FORMAT)
}

fn made_anew(document: &Document<SlotRecord>, committed: SlotName) -> Result<SlotRecord, StoreError> {
    let record = SlotRecord::new(committed);
    document.store(&record)?;
    Ok(record)
}

/// Which slot to take for committed where there is no record: the one that runs, unless the boot loader knows it for one that nobody has
/// vouched for, beside one that somebody has. It is left by the next start then.
fn committed(env: &dyn BootEnv, slots: &SlotPair, booted: &SlotName) -> Result<SlotName, CoreError> {
    let other = slots.other(booted).map_err(|_| CoreError::Slots(booted.clone()))?;
    let on_trial =
        env.load().is_ok_and(|vars| vars.health(booted) != Health::Good && vars.health(other) == Health::Good);
    Ok(if on_trial { other.clone() } else { booted.clone() })
}

/// The record as it is stored.
pub fn stored_record(storage: Arc<dyn Storage>) -> Result<Option<SlotRecord>, StoreError> {
    document(storage).load()
}

impl Core {
    /// Reads the record and puts the slot that runs beside it. A boot environment that cannot be read does not keep the
    /// service from answering; what needs it fails by name.
    pub fn start(
        storage: Arc<dyn Storage>,
        env: Box<dyn BootEnv + Send>,
        slots: SlotPair,
        booted: SlotName,
    ) -> Result<Self, CoreError> {
        let document = document(storage);
        let record = match document.load() {
            Ok(Some(record)) => record,
            Ok(None) => made_anew(&document, committed(env.as_ref(), &slots, &booted)?)?,
            Err(error @ StoreError::Damaged { .. }) => {
                log::error!("{error}; kept as slots.damaged, what is committed is taken from the boot environment");
                document.keep_damaged()?;
                made_anew(&document, committed(env.as_ref(), &slots, &booted)?)?
            }
            Err(error) => return Err(error.into()),
        };
        let mut core = Self { slots, booted, env, document, record, lease: None, settled: false };
        if let Err(error) = core.settle_start() {
            log::error!("the boot environment does not follow the record: {}", chain(&error));
        }
        Ok(core)
    }

    /// Until this has succeeded once, no verb is taken: the record's phase may be one that a start has overtaken.
    fn settle_start(&mut self) -> Result<(), CoreError> {
        // The committed slot and not the one that runs: without its environment the boot loader takes the first, or one on trial runs.
        if self.env.mend(&self.record.committed)? {
            log::warn!("the boot environment was mended");
        }
        let vars = self.env.load()?;
        let mut record = self.record.clone();
        let started = record.started(&self.booted, &vars);
        if started.changed {
            self.store(record)?;
        }
        self.settle()?;
        if let Some(slot) = started.mark_good {
            // Last, so that a fall-back is marked bad before the slot that saved the day is vouched for.
            self.env.change(|vars| vars.mark_good(&slot))?;
        }
        self.settled = true;
        Ok(())
    }

    fn store(&mut self, record: SlotRecord) -> Result<(), CoreError> {
        self.document.store(&record)?;
        if let Some(now) = &record.installation
            && self.record.installation.as_ref().map(|old| old.phase) != Some(now.phase)
        {
            log::info!(update = now.update.as_str(), slot = now.target.as_str(), phase = now.phase.as_str(); "installation is {}", now.phase);
        }
        self.record = record;
        Ok(())
    }

    /// Does what the record asks of the boot loader, until it waits for a caller, a start, or the image.
    fn settle(&mut self) -> Result<(), CoreError> {
        while let Some(effect) = self.record.effect() {
            let mut record = self.record.clone();
            match &effect {
                Effect::Write(..) => return Ok(()),
                Effect::MarkBad(slot) => self.env.change(|vars| vars.mark_bad(slot))?,
                Effect::TryOnce(slot) => self.env.change(|vars| vars.try_once(slot))?,
                Effect::MarkGood(slot) => self.env.change(|vars| vars.mark_good(slot))?,
                Effect::SettleOn(slot) => self.env.change(|vars| vars.settle_on(slot))?,
            }
            record.done();
            self.store(record)?;
        }
        Ok(())
    }

    /// Changes the record by `verb`, then makes the boot loader follow, also when an earlier call could not.
    fn change(&mut self, verb: impl FnOnce(&mut SlotRecord) -> Result<bool, PhaseError>) -> Result<(), CoreError> {
        if !self.settled {
            self.settle_start()?;
        }
        let mut record = self.record.clone();
        if verb(&mut record)? {
            self.store(record)?;
        }
        self.settle()
    }

    pub fn booted(&self) -> &SlotName {
        &self.booted
    }

    pub fn view(&self) -> View {
        View { booted: self.booted.clone(), vars: self.env.load().ok(), record: self.record.clone() }
    }

    /// Begins or resumes an installation into the slot that does not run.
    pub fn stage(&mut self, update: &UpdateId, image: &SlotImage) -> Result<Staging, CoreError> {
        let booted = self.booted.clone();
        let target = self.slots.other(&booted).map_err(|_| CoreError::Slots(booted.clone()))?.clone();
        self.adopt_running(update)?;
        self.change(|record| record.stage(update.clone(), target.clone(), image.clone(), &booted))?;
        match self.record.effect() {
            Some(Effect::Write(slot, _)) => Ok(Staging::Write(slot)),
            _ => Ok(Staging::Done),
        }
    }

    /// The committed slot does not start any more, or another program's update has put the boot loader on this one: what runs becomes the
    /// committed slot, so that the other can be written and the unit be mended.
    fn adopt_running(&mut self, update: &UpdateId) -> Result<(), CoreError> {
        if !self.settled {
            self.settle_start()?;
        }
        let mut record = self.record.clone();
        if record.adopt(&self.booted) {
            log::warn!(update = update.as_str(); "slot {} runs in place of {}, and stays", self.booted, self.record.committed);
            self.store(record)?;
            let booted = self.booted.clone();
            self.env.change(|vars| vars.settle_on(&booted))?;
        }
        Ok(())
    }

    /// The image is in the slot, or could not be put there. `false`: meanwhile the installation is another one or over.
    pub fn written(&mut self, update: &UpdateId, image: &SlotImage, good: bool) -> Result<bool, CoreError> {
        let mut record = self.record.clone();
        let awaited = record
            .installation
            .as_ref()
            .is_some_and(|now| now.update == *update && now.image == *image && now.phase == Phase::Writing);
        if awaited {
            if good {
                record.done()
            } else {
                record.write_failed()
            }
            self.store(record)?;
        }
        Ok(awaited)
    }

    pub fn activate(&mut self, update: &UpdateId) -> Result<(), CoreError> {
        self.change(|record| record.activate(update))
    }

    pub fn mark_good(&mut self, update: &UpdateId) -> Result<(), CoreError> {
        self.change(|record| record.mark_good(update))
    }

    pub fn commit(&mut self, update: &UpdateId) -> Result<(), CoreError> {
        self.change(|record| record.commit(update))?;
        self.release(update);
        Ok(())
    }

    /// `true`: the slot that runs is the one that was left, so a restart is due.
    pub fn roll_back(&mut self, update: &UpdateId) -> Result<bool, CoreError> {
        self.change(|record| record.roll_back(update))?;
        self.release(update);
        Ok(self.reboot_due())
    }

    /// Makes sure that the slot that does not run is marked bad, as after a fall-back. Refused while it is the running one that is on trial.
    pub fn mark_other_bad(&mut self, update: &UpdateId) -> Result<(), CoreError> {
        let target =
            self.record.installation.as_ref().filter(|now| now.update == *update).map(|now| now.target.clone());
        match target {
            Some(target) if target == self.booted => Err(PhaseError::Booted { target }.into()),
            Some(_) => self.change(|record| record.roll_back(update)),
            None => Ok(()),
        }
    }

    pub fn reboot_due(&self) -> bool {
        self.record.reboot_due(&self.booted)
    }

    /// The same, if it is this update's restart: who was agreed to another is no matter.
    pub fn reboot_due_for(&self, update: &UpdateId) -> bool {
        self.reboot_due() && self.phase_of(update).is_some()
    }

    /// Whether the restart that is due leads back to the committed slot.
    pub fn goes_back(&self) -> bool {
        self.reboot_due() && self.booted != self.record.committed
    }

    /// Whether an installation of `update` may go on writing.
    pub fn may_write(&self, update: &UpdateId) -> bool {
        self.record.installation.as_ref().is_some_and(|now| now.update == *update && now.phase == Phase::Writing)
    }

    /// Takes or renews the lease.
    pub fn lease(&mut self, owner: &str, update: &UpdateId, duration: Duration, now: Instant) -> Result<(), CoreError> {
        self.check_lease(update, now)?;
        self.lease = Some(Lease { owner: owner.to_owned(), update: update.clone(), until: now + duration });
        Ok(())
    }

    /// Refuses when another update holds the lease, or has a slot on its way that nobody has decided about.
    pub fn check_lease(&self, update: &UpdateId, now: Instant) -> Result<(), CoreError> {
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.update != *update && lease.until > now) {
            let left = lease.until.saturating_duration_since(now);
            return Err(CoreError::Leased { owner: lease.owner.clone(), update: lease.update.clone(), left });
        }
        Ok(())
    }

    /// After a start: an update that has been activated holds the slots until it is committed or rolled back. One that is
    /// only staged may have been given up meanwhile; its owner takes the lease again with its next request.
    pub fn resume_lease(&mut self, duration: Duration, now: Instant) {
        use Phase::{Activated, Activating, Bootable, MarkingGood, Trial};
        let held = |phase| matches!(phase, Activating | Activated | Trial | MarkingGood | Bootable);
        let under_way = self.record.installation.as_ref().filter(|now| held(now.phase));
        self.lease = under_way.map(|i| Lease {
            owner: owner(&i.update).to_owned(),
            update: i.update.clone(),
            until: now + duration,
        });
    }

    /// Takes the lease for `update` unless it has one already.
    pub fn take_lease(&mut self, update: &UpdateId, duration: Duration, now: Instant) -> Result<(), CoreError> {
        self.check_lease(update, now)?;
        let owner = match &self.lease {
            Some(lease) if lease.update == *update => lease.owner.clone(),
            _ => owner(update).to_owned(),
        };
        self.lease(&owner, update, duration, now)
    }

    /// The installation, if it is a workshop's.
    pub fn workshop(&self) -> Option<&Installation> {
        self.record.installation.as_ref().filter(|now| now.update.is_workshop())
    }

    /// Refuses when any update holds the slots, whosever it is.
    pub fn check_free(&self, now: Instant) -> Result<(), CoreError> {
        match self.lease.as_ref().filter(|lease| lease.until > now && !lease.update.is_workshop()) {
            Some(lease) => Err(CoreError::Leased {
                owner: lease.owner.clone(),
                update: lease.update.clone(),
                left: lease.until.saturating_duration_since(now),
            }),
            None => Ok(()),
        }
    }

    fn phase_of(&self, update: &UpdateId) -> Option<Phase> {
        self.record.installation.as_ref().filter(|now| now.update == *update).map(|now| now.phase)
    }

    /// Whether the next start would try this update's slot, or may be told to.
    pub fn is_before_its_try(&self, update: &UpdateId) -> bool {
        matches!(self.phase_of(update), Some(Phase::Staged | Phase::Activating | Phase::Activated))
    }

    /// Whether the vehicle is to be held for this update: its slot may be the next that starts, runs without having been accepted, or is
    /// still to be left.
    pub fn holds(&self, update: &UpdateId) -> bool {
        use Phase::{Activated, Activating, Bootable, Committing, MarkingGood, RollingBack, Trial};
        let undecided =
            |phase| matches!(phase, Activating | Activated | Trial | MarkingGood | Bootable | Committing | RollingBack);
        self.phase_of(update).is_some_and(undecided) || self.reboot_due_for(update)
    }

    /// Takes an activation back whose restart has not come. There is no way from activated to staged, so it is rolled back: the image
    /// stays in the slot, and staging it again only looks. `false`: the next start does not try this update's slot.
    ///
    /// Errors: the boot loader may still try the slot, and is told again with the next verb.
    pub fn disarm(&mut self, update: &UpdateId) -> Result<bool, CoreError> {
        let armed = matches!(self.phase_of(update), Some(Phase::Activating | Phase::Activated | Phase::RollingBack))
            && self.booted == self.record.committed;
        if armed {
            self.roll_back(update)?;
        }
        Ok(armed)
    }

    /// Gives the lease back; that of another update stays.
    pub fn release(&mut self, update: &UpdateId) {
        self.lease.take_if(|lease| lease.update == *update);
    }
}

/// Whose updates have this kind of id.
fn owner(update: &UpdateId) -> &'static str {
    if update.is_workshop() { "workshop" } else { "ota" }
}

impl View {
    /// State of a slot in the words of `SelfUpdate.GetSlots`. `readable`: it holds a file system that says what it is.
    pub fn state(&self, slot: &SlotName, readable: bool) -> &'static str {
        let phase = self.record.installation.as_ref().filter(|now| now.target == *slot).map(|now| now.phase);
        if matches!(phase, Some(Phase::Activating | Phase::Activated | Phase::Trial)) {
            return "trying";
        }
        match self.vars.as_ref().map(|vars| vars.health(slot)) {
            Some(Health::Good) => "good",
            _ if !readable => "empty",
            _ => "bad",
        }
    }

    /// Whether the next start takes this slot.
    pub fn is_primary(&self, slot: &SlotName) -> bool {
        self.vars.as_ref().and_then(BootVars::primary) == Some(slot)
    }
}

type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// The core on a thread of its own: one owner, and no durable write holds up the event loop.
#[derive(Clone)]
pub struct CoreHandle(mpsc::Sender<Job>);

impl CoreHandle {
    pub fn spawn(mut core: Core) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut core);
            }
        });
        Self(jobs)
    }

    /// Runs `job` on the core and returns what it returns.
    pub async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, OtaError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |core: &mut Core| drop(reply.send(job(core))));
        self.0.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// The same from a thread that may block.
    pub fn ask_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, OtaError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |core: &mut Core| drop(reply.send(job(core))));
        self.0.blocking_send(job).map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())
    }
}

fn stopped() -> OtaError {
    OtaError::Internal("the slots' thread has ended".to_owned())
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
