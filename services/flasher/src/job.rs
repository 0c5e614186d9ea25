//! One job on one ECU: the machine's acts carried out over a link.

use std::sync::Arc;
use std::time::Duration;

use pitstop_bundle::{IDENTITY_LEN, IdentityBlock};
use pitstop_dbus::OtaError;
use pitstop_flashing::install::Content;
use pitstop_flashing::{Act, BlankFinder, Failure, Gate, Installation, Order, Phase, Profile, Success};
use pitstop_types::{EcuId, Sha256Writer, UpdateId};
use tokio::time::Instant;

use crate::error::named;
use crate::lanes::Lane;
use crate::ports::{EcuLink, Keys, Payload, Safety, Software};
use crate::record::{Records, Touched};

/// How often a job that waits for the bus looks again; also well below S3client, so that the session stays alive.
const BUS_POLL: Duration = Duration::from_millis(100);
/// Bytes read at once when the payload is looked through before flashing.
const SCAN: u32 = 64 * 1024;

/// Who hears of a job's course.
#[async_trait::async_trait]
pub(crate) trait Watcher: Send + Sync {
    async fn phase(&self, phase: &str);
    async fn progress(&self, done: u64, total: u64);
    fn is_cancelled(&self) -> bool;
}

/// What a job needs beside its order.
pub(crate) struct Job<'a> {
    pub update: &'a UpdateId,
    pub ecu: &'a EcuId,
    pub touched: Touched,
    /// Going back needs no consent, and is not stopped by its absence.
    pub needs_consent: bool,
    /// The job takes the ECU out of service.
    pub disrupts: bool,
    pub safety: &'a dyn Safety,
    pub keys: &'a dyn Keys,
    pub records: &'a Records,
    pub watcher: &'a dyn Watcher,
}

impl Job<'_> {
    /// Carries the job out. `software` is there where something is written.
    pub(crate) async fn run(
        &self,
        order: Order,
        profile: Arc<Profile>,
        link: &mut dyn EcuLink,
        lane: &mut Lane,
        software: Option<Software>,
    ) -> Result<Success, OtaError> {
        let mut machine = Installation::new(order, profile);
        let mut run = Run { job: self, link, software, origin: Instant::now(), reason: None };
        let mut phase = None;
        loop {
            if let Some(trouble) = machine.take_trouble() {
                log::warn!(update = self.update.as_str(), ecu = self.ecu.as_str(); "begins again: {trouble}");
            }
            self.follow(&machine, &mut phase).await;
            if self.watcher.is_cancelled() {
                machine.cancel();
            }
            self.share_bus(&machine, lane, run.link).await;
            match machine.poll_act() {
                Act::End(end) => return self.end(end, run.reason),
                act => run.carry_out(&mut machine, act).await,
            }
        }
    }

    /// Tells phase and progress; the machine's phase is the only place they come from.
    async fn follow(&self, machine: &Installation, last: &mut Option<Phase>) {
        let phase = machine.phase();
        if *last != Some(phase) {
            if let (Some(plan), Phase::Erasing, true) = (machine.plan(), phase, *last < Some(Phase::Erasing)) {
                log::info!("plan of {}:\n{plan}", self.ecu);
            }
            *last = Some(phase);
            log::info!(update = self.update.as_str(), ecu = self.ecu.as_str(), phase = phase.as_str(); "ECU {}: {}", self.ecu, phase.as_str());
            self.watcher.phase(phase.as_str()).await;
        }
        let (done, total) = machine.progress();
        if total > 0 {
            self.watcher.progress(done, total).await;
        }
    }

    /// One transfer per bus: waits for it, keeping this ECU's session alive.
    async fn share_bus(&self, machine: &Installation, lane: &mut Lane, link: &mut dyn EcuLink) {
        if machine.phase() != Phase::Transferring {
            return lane.end_transfer();
        }
        while !lane.try_transfer() {
            link.idle(BUS_POLL).await;
        }
    }

    /// The gate: asked here and nowhere else, and the record is stored before it opens.
    async fn permit(&self, gate: Gate) -> Result<(), OtaError> {
        if self.disrupts {
            if self.needs_consent {
                self.safety.consented(self.update).await?;
            }
            self.safety.safe().await?;
        }
        self.records.touch(self.ecu, &Touched { erased: gate == Gate::Erase, ..self.touched.clone() })?;
        log::info!(update = self.update.as_str(), ecu = self.ecu.as_str(); "permitted: {gate:?}");
        Ok(())
    }

    fn end(&self, end: Result<Success, Failure>, reason: Option<OtaError>) -> Result<Success, OtaError> {
        match end {
            Ok(success) => {
                self.records.clear(self.ecu);
                Ok(success)
            }
            Err(failure @ (Failure::Denied { .. } | Failure::Payload { .. })) => {
                Err(reason.unwrap_or_else(|| named(&failure)))
            }
            Err(failure) => Err(named(&failure)),
        }
    }
}

/// What a run of the machine works with.
struct Run<'a> {
    job: &'a Job<'a>,
    link: &'a mut dyn EcuLink,
    software: Option<Software>,
    origin: Instant,
    /// Why the gate stayed shut or the payload was not read: the machine only knows that.
    reason: Option<OtaError>,
}

impl Run<'_> {
    async fn carry_out(&mut self, machine: &mut Installation, act: Act) {
        match act {
            Act::Permit(gate) => {
                let permit = self.job.permit(gate).await;
                machine.handle_permit(permit.is_ok());
                self.reason = permit.err().or(self.reason.take());
            }
            Act::Send { request, addressing, quiet, limits } => {
                let outcome = self.link.ask(&request, addressing, quiet, limits).await;
                machine.handle_outcome(self.origin.elapsed(), outcome);
            }
            Act::Payload { offset, length } => match self.read(offset, length).await {
                Ok(bytes) => machine.handle_payload(Some(bytes)),
                Err(error) => {
                    self.reason = Some(error);
                    machine.handle_payload(None);
                }
            },
            Act::Key { plugin, level, seed } => {
                machine.handle_key(self.job.keys.key(self.job.ecu, &plugin, level, &seed));
            }
            Act::Reopen => {
                let reopened = self.link.reopen().await;
                machine.handle_reopened(self.origin.elapsed(), reopened);
            }
            Act::Wait(time) => {
                self.link.idle(time).await;
                machine.handle_timeout();
            }
            Act::End(_) => {}
        }
    }

    async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, OtaError> {
        match &mut self.software {
            Some(software) => software.payload.read(offset, length).await,
            None => Err(OtaError::Internal("a payload was asked for that the job does not have".to_owned())),
        }
    }
}

/// Reads every segment once before the first erase: compares it with the description's digests, finds its blank runs, and which
/// segment is the identity block.
pub(crate) async fn look_through(software: &mut Software, profile: &Profile) -> Result<Content, OtaError> {
    let mut blanks = Vec::new();
    let mut seal = None;
    let description = software.description.clone();
    for segment in &description.segments {
        let mut finder = BlankFinder::new(profile.transfer.blank, profile.transfer.split_gap);
        let mut hash = Sha256Writer::new();
        let mut head = Vec::new();
        read_segment(software.payload.as_mut(), segment, |bytes| {
            finder.feed(bytes);
            hash.update(bytes);
            head.extend(bytes.iter().take(IDENTITY_LEN.saturating_sub(head.len())));
        })
        .await?;
        if hash.finish() != segment.sha256 {
            let address = segment.address;
            return Err(OtaError::HashMismatch(format!(
                "the segment at {address:#x} is not what its description says"
            )));
        }
        if segment.length as usize == IDENTITY_LEN && IdentityBlock::read(&head).is_ok() {
            seal = Some(segment.address);
        }
        blanks.push(finder.finish());
    }
    Ok(Content { description, blanks: Arc::new(blanks), seal })
}

async fn read_segment(
    payload: &mut dyn Payload,
    segment: &pitstop_bundle::Segment,
    mut take: impl FnMut(&[u8]) + Send,
) -> Result<(), OtaError> {
    let mut at = 0;
    while at < segment.length {
        let length = SCAN.min(segment.length - at);
        take(&payload.read(segment.offset + u64::from(at), length).await?);
        at += length;
    }
    Ok(())
}
