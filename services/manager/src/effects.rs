//! Carries out one effect of the record and says what came of it, as an event.
//!
//! A service that is away is asked again, for as long as the effect is wanted. A named error is an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Answer, Duty, Effect, Event, Failure, Record, StepKind};
use pitstop_types::{Digest, EcuId, EcuReport, HardwareId, SoftwareVersion, UnixSeconds, UserChoice};

use crate::config::Settings;
use crate::ports::{Ended, Order, Ports, Receipt, Verb};
use crate::reporter::Reporter;
use crate::tether::Tether;
use crate::{report, words};

/// First and longest pause before a service that is away is asked again: short, because a killed service is back
/// within a second; bounded, because one that is stopped for maintenance shall not be asked a hundred times a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After this, what only refuses is given up where giving up is safe.
const GIVE_UP: Duration = Duration::from_secs(300);
/// Between two looks for the driver's answer, should its signal be lost.
const LOOK_FOR_ANSWER: Duration = Duration::from_secs(2);
/// Between two orders to restart: the first one may be on its way.
const REBOOT_AGAIN: Duration = Duration::from_secs(90);
/// Between two readings of versions that are not as expected: an ECU that was reset needs some seconds.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// What came of an effect. No event: it was no longer wanted.
#[derive(Debug, Default)]
pub struct Outcome {
    pub event: Option<Event>,
    pub receipt: Option<Receipt>,
}

/// Does what effects ask.
#[derive(Clone)]
pub struct Performer {
    pub ports: Ports,
    pub settings: Arc<Settings>,
    pub reporter: Reporter,
}

/// Asks again while the other side is away.
macro_rules! patiently {
    ($tether:expr, $call:expr) => {{
        let mut pause = FIRST_PAUSE;
        loop {
            match $call.await {
                Err(error) if error.is_temporary() => {
                    log::debug!("asked again in {pause:?}: {}", error.text());
                    $tether.pause(pause).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => break other,
            }
        }
    }};
}

type Result<T> = std::result::Result<T, OtaError>;

impl Performer {
    /// Carries out `effect` of `record`.
    pub async fn perform(&self, record: &Record, effect: &Effect, tether: &Tether) -> Outcome {
        let mut receipt = None;
        let event = self.act(record, effect, tether, &mut receipt).await;
        tether.blocked(Vec::new());
        match event {
            Ok(event) => Outcome { event: Some(event), receipt },
            Err(error) => {
                if !matches!(error, OtaError::Cancelled(_)) {
                    log::warn!(
                        "{effect:?} of update {}: {}: {}",
                        record.decision.update,
                        error.short_name(),
                        error.text()
                    );
                }
                Outcome { event: None, receipt }
            }
        }
    }

    async fn act(
        &self,
        record: &Record,
        effect: &Effect,
        tether: &Tether,
        receipt: &mut Option<Receipt>,
    ) -> Result<Event> {
        match effect {
            Effect::Admit { ecu, role } => {
                let Some(step) = record.step(ecu) else { return Err(OtaError::UnknownEcu(ecu.to_string())) };
                let update = &record.decision.update;
                let bundle = step.bundle(*role);
                match patiently!(tether, self.ports.content.admit(update, ecu, *role, bundle, tether)) {
                    Ok(()) => Ok(Event::BundleAdmitted { ecu: ecu.clone(), role: *role }),
                    Err(error @ OtaError::Cancelled(_)) => Err(error),
                    Err(error) => Ok(Event::BundleRefused(words::failure(&error).of(ecu))),
                }
            }
            Effect::Stage { ecu, attempt } => self.order(record, Verb::Stage, ecu, *attempt, tether, receipt).await,
            Effect::Activate { ecu, attempt } => {
                self.order(record, Verb::Activate, ecu, *attempt, tether, receipt).await
            }
            Effect::Commit { ecu, attempt } => self.order(record, Verb::Commit, ecu, *attempt, tether, receipt).await,
            Effect::RollBack { ecu, attempt } => {
                self.order(record, Verb::RollBack, ecu, *attempt, tether, receipt).await
            }
            Effect::Ask { times } => self.ask(record, *times, tether).await,
            Effect::MakeSafe { undo } => self.make_safe(record, *undo, tether).await.map(|()| Event::Safe),
            Effect::Reboot => self.reboot(record, tether).await,
            Effect::MarkGood => self.mark_good(record, tether).await,
            Effect::ReadBack => self.read_back(record, tether).await.map(Event::ReadBack),
            Effect::MarkOtherBad => self.mark_other_bad(record, tether).await,
            Effect::Do(duty) => self.duty(record, *duty, tether).await.map(|()| Event::DutyDone(*duty)),
        }
    }

    /// One order to an ECU or the TCU's slot, under its conditions.
    async fn order(
        &self,
        record: &Record,
        verb: Verb,
        ecu: &EcuId,
        attempt: u32,
        tether: &Tether,
        receipt: &mut Option<Receipt>,
    ) -> Result<Event> {
        let Some(step) = record.step(ecu) else { return Err(OtaError::UnknownEcu(ecu.to_string())) };
        let expected = step.before.as_ref().map(SoftwareVersion::to_string).unwrap_or_default();
        let order = Order { verb, update: record.decision.update.clone(), ecu: ecu.clone(), expected, attempt };
        let mut pause = FIRST_PAUSE;
        loop {
            match verb {
                Verb::Stage => self.hold(&self.settings.stage_conditions, tether).await?,
                Verb::Activate => self.make_safe(record, false, tether).await?,
                Verb::RollBack => self.make_safe(record, true, tether).await?,
                Verb::Commit => {}
            }
            let ended = if step.kind == StepKind::Slot {
                self.order_slot(&order, tether).await
            } else {
                self.ports.flasher.carry_out(&order, tether).await
            };
            match ended.result {
                Ok(()) => {
                    *receipt = ended.receipt;
                    return Ok(done(verb, ecu.clone(), attempt));
                }
                Err(error @ OtaError::Cancelled(_)) if tether.is_stopped() => return Err(error),
                // The other side looked for itself and found the vehicle unsafe: its result is dropped, and asked for anew.
                Err(error @ (OtaError::NotSafe(_) | OtaError::ConditionsNotMet(_) | OtaError::NoConsent(_))) => {
                    tether.blocked(vec![error.text()]);
                    if let Some(receipt) = ended.receipt {
                        self.ports.backend.acknowledge(receipt).await;
                    }
                    tether.pause(self.settings.condition_poll).await?;
                }
                Err(error) if error.is_temporary() => {
                    tether.pause(pause).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    *receipt = ended.receipt;
                    let again = !is_final(&error);
                    return Ok(Event::StepFailed { ecu: ecu.clone(), attempt, failure: words::failure(&error), again });
                }
            }
        }
    }

    async fn order_slot(&self, order: &Order, tether: &Tether) -> Ended {
        let slots = &self.ports.slots;
        match order.verb {
            Verb::Stage => slots.stage(order, tether).await,
            Verb::Activate => Ended::without_receipt(slots.activate(&order.update).await),
            Verb::Commit => Ended::without_receipt(slots.commit(&order.update).await),
            Verb::RollBack => Ended::without_receipt(slots.roll_back(&order.update).await),
        }
    }

    /// Shows the prompt and waits for the answer that is stored.
    async fn ask(&self, record: &Record, times: u32, tether: &Tether) -> Result<Event> {
        let driver = &self.ports.driver;
        let update = &record.decision.update;
        patiently!(tether, driver.ask(update, &record.decision.facts))?;
        let newest = record.answers.last().map(|answer| answer.at);
        let mut asked_again = times <= 1;
        loop {
            let answer = patiently!(tether, driver.answer(update))?;
            // An answer that is in the record already is last time's.
            let is_new = !answer.choice.is_empty() && newest.is_none_or(|at| answer.answered_at > at);
            if is_new && let Some(answer) = self.answer(&answer) {
                let too_late = |at| at >= record.decision.install_by;
                if !matches!(answer.choice, UserChoice::At { unix_secs } if too_late(unix_secs)) {
                    return Ok(Event::Answered(answer));
                }
                // The update is no longer valid then: the driver has to choose again.
                asked_again = false;
            }
            if !asked_again && !answer.choice.is_empty() {
                patiently!(tether, driver.ask_again(update))?;
                asked_again = true;
            }
            tokio::select! {
                () = driver.answered() => {}
                waited = tether.pause(LOOK_FOR_ANSWER) => waited?,
            }
        }
    }

    /// `None`: in words that this release does not know; it goes on waiting.
    fn answer(&self, answer: &pitstop_dbus::Answer) -> Option<Answer> {
        let choice = match answer.choice.as_str() {
            "now" => UserChoice::Now,
            "at" => UserChoice::At { unix_secs: answer.at },
            "later" => UserChoice::Later,
            "no" => UserChoice::No,
            _ => return None,
        };
        let ask_again = i64::try_from(self.settings.ask_again.as_secs()).unwrap_or(i64::MAX);
        Some(Answer {
            choice,
            at: answer.answered_at,
            origin: answer.origin.clone(),
            prompt: Digest::parse(&answer.text_digest).ok()?,
            ask_again_at: self.now().unwrap_or(answer.answered_at).saturating_add(ask_again),
        })
    }

    /// Waits until the conditions hold.
    async fn hold(&self, conditions: &[String], tether: &Tether) -> Result<()> {
        while let Some(reasons) = self.blocked(conditions, tether).await? {
            tether.blocked(reasons);
            tether.pause(self.settings.condition_poll).await?;
        }
        tether.blocked(Vec::new());
        Ok(())
    }

    /// Why the conditions do not hold; `None`: they do.
    async fn blocked(&self, conditions: &[String], tether: &Tether) -> Result<Option<Vec<String>>> {
        if conditions.is_empty() {
            return Ok(None);
        }
        match patiently!(tether, self.ports.vehicle.evaluate(conditions)) {
            Ok(results) if results.len() == conditions.len() => {
                let reasons: Vec<String> = results
                    .into_iter()
                    .filter(|result| !result.holds)
                    .map(|result| format!("{}: {}", result.condition, result.reason))
                    .collect();
                Ok((!reasons.is_empty()).then_some(reasons))
            }
            Ok(_) => Ok(Some(vec!["the conditions were not all judged".to_owned()])),
            Err(error @ OtaError::Cancelled(_)) => Err(error),
            // A condition that cannot be read never holds, and says so.
            Err(error) => Ok(Some(vec![error.text()])),
        }
    }

    /// Waits for the conditions, then for the acknowledged drive inhibit.
    ///
    /// The campaign's conditions (windows, areas) count for the start only: that its window closes while ECUs are
    /// being changed is no reason to leave the vehicle half way.
    async fn make_safe(&self, record: &Record, undo: bool, tether: &Tether) -> Result<()> {
        let mut conditions =
            if undo { &self.settings.undo_conditions } else { &self.settings.start_conditions }.clone();
        let nothing_changed = record.deadline.is_none() && !undo;
        if nothing_changed {
            conditions.extend(record.decision.conditions.iter().cloned());
        }
        let update = &record.decision.update;
        let vehicle = &self.ports.vehicle;
        let mut requested = true;
        loop {
            if let Some(reasons) = self.blocked(&conditions, tether).await? {
                tether.blocked(reasons);
                if nothing_changed && requested {
                    // A driver who wants to go must be able to; also what an earlier life requested.
                    patiently!(tether, vehicle.release_inhibit(update))?;
                    requested = false;
                }
                tether.pause(self.settings.condition_poll).await?;
                continue;
            }
            patiently!(tether, vehicle.request_inhibit(update))?;
            requested = true;
            let asked = tokio::time::Instant::now();
            loop {
                let Some(reason) = patiently!(tether, vehicle.unsafe_because())? else {
                    tether.blocked(Vec::new());
                    return Ok(());
                };
                tether.blocked(vec![reason]);
                tether.pause(Duration::from_millis(200)).await?;
                if asked.elapsed() >= self.settings.inhibit_timeout {
                    break;
                }
            }
        }
    }

    async fn reboot(&self, record: &Record, tether: &Tether) -> Result<Event> {
        loop {
            self.make_safe(record, true, tether).await?;
            match self.ports.slots.reboot(&record.decision.update).await {
                Ok(()) => tether.pause(REBOOT_AGAIN).await?,
                Err(error) => {
                    tether.blocked(vec![format!("restart: {}", error.text())]);
                    tether.pause(self.settings.condition_poll).await?;
                }
            }
        }
    }

    /// The trial slot's own check: everything an update needs must answer. The backend is not among it, and neither
    /// is the network: a garage without reception is no fault of the new software.
    async fn mark_good(&self, record: &Record, tether: &Tether) -> Result<Event> {
        let began = tokio::time::Instant::now();
        loop {
            let trouble = match self.sick().await {
                Some(trouble) => trouble,
                None => match self.ports.slots.mark_good(&record.decision.update).await {
                    Ok(()) => return Ok(Event::MarkedGood),
                    Err(error) => format!("marking the slot good: {}", error.text()),
                },
            };
            if began.elapsed() >= self.settings.health {
                return Ok(Event::TrialFailed(Failure::new("Unhealthy", trouble)));
            }
            tether.pause(FIRST_PAUSE).await?;
        }
    }

    /// A boot environment that cannot be written must not keep the update from ending: then it needs a workshop.
    async fn mark_other_bad(&self, record: &Record, tether: &Tether) -> Result<Event> {
        let began = tokio::time::Instant::now();
        loop {
            match patiently!(tether, self.ports.slots.mark_other_bad(&record.decision.update)) {
                Ok(()) => return Ok(Event::OtherSlotBad),
                Err(error @ OtaError::Cancelled(_)) => return Err(error),
                Err(error) if began.elapsed() >= GIVE_UP => {
                    log::error!("the other slot cannot be marked bad: {}: {}", error.short_name(), error.text());
                    return Ok(Event::TooOften);
                }
                Err(_) => tether.pause(FIRST_PAUSE * 4).await?,
            }
        }
    }

    /// A floor that lags is safe, an update that never ends is not.
    async fn raise_floors(&self, record: &Record, tether: &Tether) -> Result<()> {
        let began = tokio::time::Instant::now();
        loop {
            match patiently!(tether, self.ports.content.raise_floors(&record.decision.update)) {
                Err(error) if !matches!(error, OtaError::Cancelled(_)) => {
                    if began.elapsed() >= GIVE_UP {
                        log::error!("floors stay as they are: {}: {}", error.short_name(), error.text());
                        return Ok(());
                    }
                    tether.pause(LONGEST_PAUSE).await?;
                }
                other => return other,
            }
        }
    }

    /// What does not answer, if anything.
    async fn sick(&self) -> Option<String> {
        if let Err(error) = self.ports.slots.slots().await {
            return Some(format!("self-update: {}", error.text()));
        }
        if let Err(error) = self.ports.flasher.list().await {
            return Some(format!("flasher: {}", error.text()));
        }
        if let Err(error) = self.ports.vehicle.unsafe_because().await {
            return Some(format!("vehicle-state: {}", error.text()));
        }
        None
    }

    /// Versions of all planned ECUs, read until they are as wanted or the time for it is over.
    async fn read_back(&self, record: &Record, tether: &Tether) -> Result<Vec<EcuReport>> {
        let back = record.phase == pitstop_lifecycle::Phase::Undone;
        let wanted: BTreeMap<EcuId, SoftwareVersion> = record
            .steps
            .iter()
            .map(|step| (step.ecu.clone(), if back { &step.fallback } else { &step.target }.version.clone()))
            .collect();
        let began = tokio::time::Instant::now();
        loop {
            let reports = self.read_once(wanted.keys(), tether).await?;
            let right = wanted.iter().all(|(ecu, version)| {
                reports.iter().any(|report| report.ecu == *ecu && report.version.as_ref() == Some(version))
            });
            if right || began.elapsed() >= self.settings.read_back {
                return Ok(reports);
            }
            tether.pause(READ_AGAIN).await?;
        }
    }

    async fn read_once(&self, ecus: impl Iterator<Item = &EcuId>, tether: &Tether) -> Result<Vec<EcuReport>> {
        let (tcu, others): (Vec<EcuId>, Vec<EcuId>) = ecus.cloned().partition(EcuId::is_tcu);
        let mut reports = Vec::new();
        if !others.is_empty() {
            let versions = patiently!(tether, self.ports.flasher.versions(&others))?;
            reports.extend(versions.into_iter().filter(|found| found.error_name.is_empty()).filter_map(|found| {
                Some(EcuReport {
                    ecu: EcuId::new(found.ecu).ok()?,
                    hardware: HardwareId::new(found.hardware).ok()?,
                    version: SoftwareVersion::new(found.version).ok(),
                    software_number: found.software_number,
                    serial: found.serial,
                })
            }));
        }
        if let Some(ecu) = tcu.into_iter().next() {
            let slots = patiently!(tether, self.ports.slots.slots())?;
            reports.extend(slots.into_iter().filter(|slot| slot.booted).filter_map(|slot| {
                let hardware = HardwareId::new(slot.hardware).ok()?;
                let version = SoftwareVersion::new(slot.version).ok();
                let ecu = ecu.clone();
                Some(EcuReport { ecu, hardware, version, software_number: String::new(), serial: String::new() })
            }));
        }
        Ok(reports)
    }

    async fn duty(&self, record: &Record, duty: Duty, tether: &Tether) -> Result<()> {
        let update = &record.decision.update;
        match duty {
            Duty::Floors => self.raise_floors(record, tether).await,
            Duty::Inhibit => patiently!(tether, self.ports.vehicle.release_inhibit(update)),
            Duty::Report => self.report_end(record, tether).await,
            Duty::Notice => {
                let Some(end) = record.end else { return Ok(()) };
                let text = words::notice(record);
                self.must_not_hold_up(patiently!(tether, self.ports.driver.notify(update, end, &text)));
                Ok(())
            }
            Duty::Release => {
                self.must_not_hold_up(patiently!(tether, self.ports.driver.withdraw(update)));
                self.must_not_hold_up(patiently!(tether, self.ports.content.release(update)));
                self.must_not_hold_up(patiently!(tether, self.ports.slots.release_lease(update)));
                Ok(())
            }
            // The service's own business, or a newer release's word.
            Duty::History | Duty::Unknown => Ok(()),
        }
    }

    /// What is only tidying up: a refusal is logged, the update ends all the same.
    fn must_not_hold_up(&self, result: Result<()>) {
        if let Err(error) = result {
            log::warn!("tidying up: {}: {}", error.short_name(), error.text());
        }
    }

    /// The end goes into the outbox with the manifest read back after it. Success needs the manifest; any other end
    /// is told without one rather than not at all.
    async fn report_end(&self, record: &Record, tether: &Tether) -> Result<()> {
        let update = &record.decision.update;
        let manifest = loop {
            match patiently!(tether, self.ports.content.collect_manifest(Some(update))) {
                Ok(manifest) => break Some(manifest),
                Err(error @ OtaError::Cancelled(_)) => return Err(error),
                Err(error) => {
                    log::warn!("no manifest for the end of {update}: {}", error.text());
                    if record.end != Some(pitstop_types::UpdateEnd::AllNew) {
                        break None;
                    }
                    tether.pause(LONGEST_PAUSE).await?;
                }
            }
        };
        let text = report::end(record, manifest.as_deref(), self.now().unwrap_or(record.since));
        self.reporter.deliver(text, tether).await
    }

    fn now(&self) -> Option<UnixSeconds> {
        self.ports.clock.now()
    }
}

fn done(verb: Verb, ecu: EcuId, attempt: u32) -> Event {
    match verb {
        Verb::Stage => Event::StepStaged { ecu, attempt },
        Verb::Activate => Event::StepActivated { ecu, attempt },
        Verb::Commit => Event::StepCommitted { ecu, attempt },
        Verb::RollBack => Event::StepRolledBack { ecu, attempt },
    }
}

/// Whether the same order could not end otherwise a second time.
fn is_final(error: &OtaError) -> bool {
    matches!(
        error,
        OtaError::BadBundle(_)
            | OtaError::BadSignature(_)
            | OtaError::BadHardwareId(_)
            | OtaError::NotAdmitted(_)
            | OtaError::UnknownEcu(_)
            | OtaError::InvalidArgument(_)
            | OtaError::BelowFloor(_)
            | OtaError::WrongPhase(_)
    )
}
