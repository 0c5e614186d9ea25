//! The update that a tester brings: one task that takes the diagnostic server's orders one after the other, talks to `validator` and
//! `self-update`, and between orders does what [`Record::act`] says, also after a restart.

use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_store::{Document, Storage, StoreError};
use pitstop_uds::{BlockLength, Nrc};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ports::{Peers, SlotView};
use crate::record::{Act, Record, Wish};

/// Format of the stored record.
const FORMAT: u32 = 1;
/// Between two looks at slots and health while something is to come.
const LOOK: Duration = Duration::from_secs(1);
/// When the next step is a tester's, or follows a restart: nothing comes by itself, and nobody is woken for it.
const REST: Duration = Duration::from_secs(3600);
/// After something failed for a reason that may pass.
const RETRY: Duration = Duration::from_secs(5);
/// Longest error text that a tester is told, in bytes.
const MAX_ERROR: usize = 400;

/// Routine status: done, or not (the reason is in the status DID).
const STATUS_OK: u8 = 0x00;
const STATUS_FAILED: u8 = 0x01;
/// Rolled back; the TCU restarts at once if the vehicle is still held, or leaves the slot with its next start.
const STATUS_RESTART: u8 = 0x01;

/// What the diagnostic server asks for. Each but `Abort` is answered by one [`Done`].
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// 34: a package of this many bytes.
    Open(u64),
    /// 36
    Block(Vec<u8>),
    /// 37
    Close,
    /// The transfer ended without 37.
    Abort,
    /// 31 01 FF01
    Verify,
    /// 11 01
    Restart,
    /// 31 01 0210
    RollBack,
}

/// The answer to an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    Opened(Result<BlockLength, Nrc>),
    Other(Result<Vec<u8>, Nrc>),
}

/// Times and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkshopSettings {
    /// Longest TransferData message told to testers.
    pub block: BlockLength,
    /// For how long a new slot must be well.
    pub trial: Duration,
    /// By when it must have been.
    pub health_limit: Duration,
}

/// The task; see the module's text.
pub struct Workshop<P: Peers> {
    settings: WorkshopSettings,
    peers: P,
    document: Document<Record>,
    record: Option<Record>,
    /// The record was damaged: what of an update is under way is still to be asked of the slots.
    lost: bool,
    transfer: Option<Transfer<P::Reception>>,
    /// What the last order failed with.
    error: String,
    /// What keeps the next step from being done by itself; empty as soon as it goes on.
    held_up: String,
    phase: String,
    status: watch::Sender<String>,
    begun: Instant,
    well_since: Option<Instant>,
}

struct Transfer<R> {
    sink: pipe::Sender,
    reception: R,
    /// Bytes that have not come yet.
    left: u64,
    /// The package's last byte, held back until 37. The validator wants the length that was announced, so a transfer that ends in any
    /// other way is never admitted.
    last: Option<u8>,
}

impl<R> Transfer<R> {
    /// What of a block goes to the validator now.
    fn without_last<'a>(&mut self, block: &'a [u8]) -> &'a [u8] {
        self.left = self.left.saturating_sub(block.len() as u64);
        match block.split_last() {
            Some((&last, before)) if self.left == 0 => {
                self.last = Some(last);
                before
            }
            _ => block,
        }
    }
}

impl<P: Peers> Workshop<P> {
    /// Reads the record. `status`: what testers read. One that is damaged is put aside: a TCU that nobody can mend any more would be worse,
    /// and the slots know what is under way.
    pub fn new(
        settings: WorkshopSettings,
        peers: P,
        storage: Arc<dyn Storage>,
        status: watch::Sender<String>,
    ) -> Result<Self, StoreError> {
        let document = Document::new(storage, "workshop", FORMAT);
        let (record, lost) = match document.load() {
            Err(error @ StoreError::Damaged { .. }) => {
                log::error!("{error}; kept as workshop.damaged, what is under way is asked of the slots");
                document.keep_damaged()?;
                (None, true)
            }
            loaded => (loaded?, false),
        };
        Ok(Self {
            settings,
            peers,
            document,
            record,
            lost,
            transfer: None,
            error: String::new(),
            held_up: String::new(),
            phase: String::new(),
            status,
            begun: Instant::now(),
            well_since: None,
        })
    }

    /// Works until the diagnostic server is gone.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>, done: mpsc::Sender<Done>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    if let Some(answer) = self.obey(order).await
                        && done.send(answer).await.is_err()
                    {
                        return;
                    }
                    pause = Duration::ZERO;
                }
                () = tokio::time::sleep(pause), if self.is_awake() => pause = self.look().await,
            }
            self.tell();
        }
    }

    /// Whether there is anything to look after between orders.
    fn is_awake(&self) -> bool {
        self.transfer.is_none() && (self.lost || self.record.as_ref().is_some_and(|record| !record.is_over()))
    }

    /// Does one act; answers when to look again.
    pub(crate) async fn look(&mut self) -> Duration {
        match self.act().await {
            Ok(pause) => {
                self.held_up.clear();
                pause
            }
            Err(error) => {
                log::warn!("the workshop's update: {error}");
                self.held_up = text(&error);
                RETRY
            }
        }
    }

    async fn act(&mut self) -> Result<Duration, OtaError> {
        self.recover().await?;
        let view = self.peers.view().await?;
        let Some(record) = self.record.clone() else { return Ok(REST) };
        let phase = Some(view.phase.as_str()).filter(|_| view.update == record.update);
        self.phase = phase.filter(|_| record.wish != Wish::New).unwrap_or("received").to_owned();
        match record.act(phase) {
            Act::Wait => return Ok(REST),
            Act::Judge => self.judge(record).await?,
            Act::Keep => {
                self.peers.mark_good(&record.update).await?;
                self.peers.commit(&record.update).await?;
            }
            Act::RollBack => {
                if self.peers.roll_back(&record.update).await? {
                    return self.leave(&record).await;
                }
                self.finish(record, false).await?;
            }
            Act::Finish { kept } => self.finish(record, kept).await?,
        }
        Ok(LOOK)
    }

    /// Makes a record anew that was damaged. The tester decides again; what the slots are past needs nobody.
    async fn recover(&mut self) -> Result<(), OtaError> {
        if !self.lost {
            return Ok(());
        }
        let SlotView { update, version, .. } = self.peers.view().await?;
        if update.is_empty() {
            self.document.remove().map_err(|error| OtaError::Storage(error.to_string()))?;
        } else {
            log::warn!(update = update.as_str(); "the workshop's update goes on from what is in the slots");
            self.store(Record { update, version, attempt: 1, wish: Wish::Try, error: String::new() })?;
        }
        self.lost = false;
        Ok(())
    }

    /// Restarts out of a slot that is left, as long as the vehicle has been held for it since before the trial. One that is not may stand
    /// at a red light: it is not held anew for this. The boot loader takes the old slot at the next start by itself; a tester may ask for
    /// one earlier.
    async fn leave(&mut self, record: &Record) -> Result<Duration, OtaError> {
        if !self.peers.is_held(&record.update).await? {
            log::info!(update = record.update.as_str(); "the vehicle is not held: the slot is left with the next start");
            return Ok(REST);
        }
        self.peers.reboot(&record.update).await?;
        Ok(RETRY)
    }

    /// Finds out whether the new slot is well. Only a verdict is stored.
    async fn judge(&mut self, record: Record) -> Result<(), OtaError> {
        let now = Instant::now();
        match self.peers.health(&record.version).await {
            Ok(()) => {
                let since = *self.well_since.get_or_insert(now);
                if now - since >= self.settings.trial {
                    log::info!(update = record.update.as_str(); "the new slot is well");
                    self.store(Record { wish: Wish::Keep, error: String::new(), ..record })?;
                }
            }
            Err(why) => {
                self.well_since = None;
                if now - self.begun >= self.settings.health_limit {
                    log::error!(update = record.update.as_str(); "the new slot is left: {why}");
                    self.store(Record { wish: Wish::Undo, error: short(&format!("Unhealthy: {why}")), ..record })?;
                }
            }
        }
        Ok(())
    }

    /// The validator first: what it is not told now it is told again.
    async fn finish(&mut self, record: Record, kept: bool) -> Result<(), OtaError> {
        let kept = match self.peers.end(&record.update, kept).await {
            Err(OtaError::WrongPhase(text)) if kept => {
                log::warn!(update = record.update.as_str(); "it was committed, and something else runs: {text}");
                self.peers.end(&record.update, false).await?;
                false
            }
            ended => ended.map(|()| kept)?,
        };
        let wish = if kept { Wish::Kept } else { Wish::Left };
        log::info!(update = record.update.as_str(); "the workshop's update is over: {wish:?}");
        self.store(Record { wish, ..record })
    }

    fn store(&mut self, record: Record) -> Result<(), OtaError> {
        self.document.store(&record).map_err(|error| OtaError::Storage(error.to_string()))?;
        self.record = Some(record);
        Ok(())
    }

    /// What testers read: `update=w-1;version=2.0;wish=try;phase=staged;error=`.
    fn tell(&self) {
        let (update, version, wish) = match &self.record {
            Some(record) => (record.update.as_str(), record.version.as_str(), word(record.wish)),
            None => ("", "", "none"),
        };
        let stored = self.record.as_ref().map_or("", |record| record.error.as_str());
        let told = [self.error.as_str(), self.held_up.as_str(), stored];
        let error = told.into_iter().find(|error| !error.is_empty()).unwrap_or_default();
        let now = format!("update={update};version={version};wish={wish};phase={};error={error}", self.phase);
        self.status.send_if_modified(|status| std::mem::replace(status, now.clone()) != now);
    }

    pub(crate) async fn obey(&mut self, order: Order) -> Option<Done> {
        if order != Order::Abort && !matches!(order, Order::Block(_)) {
            self.error.clear();
            if let Err(error) = self.recover().await {
                log::warn!("what is under way is not known yet: {error}");
            }
        }
        let answer = match order {
            Order::Abort => {
                // The validator sees the end of the pipe.
                self.transfer = None;
                return None;
            }
            Order::Open(length) => {
                let opened = self.open(length).await.map(|()| self.settings.block);
                return Some(Done::Opened(self.answered(opened).map_err(not_sequence)));
            }
            Order::Block(bytes) => self.block(&bytes).await,
            Order::Close => {
                let closed = self.close().await;
                self.answered_with(closed, Nrc::GeneralProgrammingFailure)
            }
            Order::Verify => self.verify().await,
            Order::Restart => {
                let restarted = self.restart().await.map(|()| Vec::new());
                self.answered(restarted).map_err(not_sequence)
            }
            Order::RollBack => {
                let rolled = self.roll_back().await;
                self.answered(rolled)
            }
        };
        Some(Done::Other(answer))
    }

    fn answered<T>(&mut self, result: Result<T, OtaError>) -> Result<T, Nrc> {
        self.answered_with(result, Nrc::ConditionsNotCorrect)
    }

    /// Keeps the error for who asks why, and gives the code.
    fn answered_with<T>(&mut self, result: Result<T, OtaError>, otherwise: Nrc) -> Result<T, Nrc> {
        result.map_err(|error| {
            log::info!("a tester's order fails: {error}");
            self.error = text(&error);
            match error {
                OtaError::WrongPhase(_) => Nrc::RequestSequenceError,
                OtaError::TooLarge(_) => Nrc::RequestOutOfRange,
                OtaError::Busy(_) | OtaError::NotReady(_) | OtaError::NotSafe(_) | OtaError::Bus(_) => {
                    Nrc::ConditionsNotCorrect
                }
                _ => otherwise,
            }
        })
    }

    async fn open(&mut self, length: u64) -> Result<(), OtaError> {
        self.transfer = None;
        self.peers.check().await?;
        self.settle_the_one_before().await?;
        let (sink, reception) = self.peers.receive(length).await?;
        let sink = pipe::Sender::from_owned_fd(sink).map_err(|error| OtaError::Internal(error.to_string()))?;
        self.transfer = Some(Transfer { sink, reception, left: length, last: None });
        Ok(())
    }

    /// One that is not activated gives way to a new package. One that is stays until it is kept or rolled back.
    async fn settle_the_one_before(&mut self) -> Result<(), OtaError> {
        let Some(record) = self.record.clone().filter(|record| !record.is_over()) else { return Ok(()) };
        let SlotView { update, phase, .. } = self.peers.view().await?;
        let phase = Some(phase.as_str()).filter(|_| update == record.update);
        match (record.act(phase), phase) {
            (Act::Finish { kept }, _) => return self.finish(record, kept).await,
            (_, Some("marking" | "writing" | "staged")) => drop(self.peers.roll_back(&update).await?),
            (_, Some("rolled-back" | "fell-back" | "failed" | "committed") | None) => {}
            (_, Some(phase)) => {
                return Err(OtaError::Busy(format!("{update} is {phase}: restart the TCU, or roll it back")));
            }
        }
        self.finish(record, false).await
    }

    /// A block that the validator does not take any more ends the transfer; its reason is kept.
    async fn block(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Nrc> {
        let Some(mut transfer) = self.transfer.take() else { return Err(Nrc::TransferDataSuspended) };
        let now = transfer.without_last(bytes);
        if transfer.sink.write_all(now).await.is_ok() {
            self.transfer = Some(transfer);
            return Ok(Vec::new());
        }
        drop(transfer.sink);
        let ended = self.peers.received(transfer.reception).await;
        self.error = match ended {
            Err(error) => text(&error),
            Ok(_) => "Internal: the validator ended before the package did".to_owned(),
        };
        Err(Nrc::TransferDataSuspended)
    }

    async fn close(&mut self) -> Result<Vec<u8>, OtaError> {
        let transfer = self.transfer.take();
        let Transfer { mut sink, reception, last, .. } =
            transfer.ok_or_else(|| OtaError::WrongPhase("nothing is being transferred".to_owned()))?;
        // A validator that does not take it any more says why itself.
        let _ = sink.write_all(last.as_slice()).await;
        drop(sink);
        let (update, version) = self.peers.received(reception).await?;
        let attempt = self.record.as_ref().map_or(0, |record| record.attempt).saturating_add(1);
        self.phase = "received".to_owned();
        self.store(Record { update, version, attempt, wish: Wish::New, error: String::new() })?;
        Ok(Vec::new())
    }

    /// Writes the inactive slot and reads it back. That it is not good is an answer, not a refusal.
    async fn verify(&mut self) -> Result<Vec<u8>, Nrc> {
        let open = |record: &Record| matches!(record.wish, Wish::New | Wish::Try);
        let Some(record) = self.record.clone().filter(open) else { return Err(Nrc::RequestSequenceError) };
        match self.stage(&record).await {
            // Noted only now: before, what the slots say may be of an earlier try.
            Ok(()) => {
                let stored = self.store(Record { wish: Wish::Try, ..record }).map(|()| vec![STATUS_OK]);
                self.answered(stored)
            }
            Err(error) if error.is_temporary() => self.answered(Err(error)),
            Err(error) => {
                log::warn!(update = record.update.as_str(); "the slot is not good: {error}");
                self.error = text(&error);
                // The same attempt would give the same answer.
                let next = Record { attempt: record.attempt.saturating_add(1), ..record };
                let stored = self.store(next).map(|()| vec![STATUS_FAILED]);
                self.answered(stored)
            }
        }
    }

    /// Stages, and looks at the slots themselves: a result that was kept of an earlier life would say good of a slot that is not.
    async fn stage(&self, record: &Record) -> Result<(), OtaError> {
        self.peers.stage(&record.update, record.attempt).await?;
        let SlotView { update, phase, .. } = self.peers.view().await?;
        let open =
            matches!(phase.as_str(), "staged" | "activating" | "activated" | "trial" | "marking-good" | "bootable");
        if open && update == record.update {
            return Ok(());
        }
        Err(OtaError::SlotFailed(format!("it was written before; now the slot's installation is {phase:?}")))
    }

    async fn restart(&mut self) -> Result<(), OtaError> {
        let record = self.record.clone().filter(|record| !record.is_over());
        let nothing = || OtaError::WrongPhase("there is nothing to restart for".to_owned());
        let record = record.ok_or_else(nothing)?;
        let view = self.peers.view().await?;
        if view.update != record.update || record.wish == Wish::New {
            return Err(nothing());
        }
        let asked = self.ask_restart(&record, &view.phase).await;
        if asked.is_err() && record.wish == Wish::Try {
            self.note_taken_back(record).await;
        }
        asked
    }

    async fn ask_restart(&self, record: &Record, phase: &str) -> Result<(), OtaError> {
        if record.wish == Wish::Try && matches!(phase, "staged" | "activating") {
            self.peers.activate(&record.update).await?;
        }
        self.peers.reboot(&record.update).await
    }

    /// After a restart that was refused: `self-update` takes an activation back then, so that no later start tries the slot unasked. The
    /// package is still admitted and goes into the slot again with the next 31 01 FF01. What is not noted here ends as rolled back.
    async fn note_taken_back(&mut self, record: Record) {
        let taken_back = |view: SlotView| view.update == record.update && view.phase == "rolled-back";
        let noted = match self.peers.view().await.map(taken_back) {
            Ok(true) => self.store(Record { wish: Wish::New, attempt: record.attempt.saturating_add(1), ..record }),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        match noted {
            Ok(()) => self.phase = "received".to_owned(),
            Err(error) => log::warn!("the workshop's update is not noted as taken back: {error}"),
        }
    }

    /// Stores the wish before it does anything; what it cannot do now is done by [`Workshop::look`].
    async fn roll_back(&mut self) -> Result<Vec<u8>, OtaError> {
        let record = self.record.clone().filter(|record| !record.is_over());
        let record = record.ok_or_else(|| OtaError::WrongPhase("there is nothing to roll back".to_owned()))?;
        let view = self.peers.view().await?;
        let mine = view.update == record.update && record.wish != Wish::New;
        if mine && matches!(view.phase.as_str(), "committing" | "committed") {
            return Err(OtaError::WrongPhase("it is committed already".to_owned()));
        }
        if record.wish == Wish::New && matches!(view.phase.as_str(), "committed" | "rolled-back" | "fell-back") {
            // Nothing of it is in a slot.
            return self.finish(record, false).await.map(|()| vec![STATUS_OK]);
        }
        let record = Record { wish: Wish::Undo, error: "RolledBack: by the tester".to_owned(), ..record };
        self.store(record.clone())?;
        let restart = self.peers.roll_back(&record.update).await?;
        Ok(vec![if restart { STATUS_RESTART } else { STATUS_OK }])
    }
}

/// RequestDownload and ECUReset know no sequence error (ISO 14229-1, their tables of negative response codes).
fn not_sequence(nrc: Nrc) -> Nrc {
    if nrc == Nrc::RequestSequenceError { Nrc::ConditionsNotCorrect } else { nrc }
}

fn word(wish: Wish) -> &'static str {
    match wish {
        Wish::New => "new",
        Wish::Try => "try",
        Wish::Keep => "keep",
        Wish::Undo => "undo",
        Wish::Kept => "kept",
        Wish::Left => "left",
    }
}

fn text(error: &OtaError) -> String {
    short(&format!("{}: {}", error.short_name(), error.text()))
}

fn short(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_ERROR);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "workshop_tests.rs"]
mod tests;
