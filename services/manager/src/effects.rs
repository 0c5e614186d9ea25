//! Carries out one effect of the record and says what came of it, as an event.
//!
//! A service that is away is asked again, for as long as the effect is wanted. A named error is an answer.

use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::OtaError;
use pitstop_lifecycle::{Effect, Event, Record, StepKind};
use pitstop_types::{EcuId, SoftwareVersion, UnixSeconds};

use crate::config::Settings;
use crate::ports::{Ended, Order, Ports, Receipt, Verb};
use crate::reporter::Reporter;
use crate::tether::Tether;
use crate::words;

/// First and longest pause before a service that is away is asked again: short, because a killed service is back
/// within a second; bounded, because one that is stopped for maintenance shall not be asked a hundred times a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After this, what only refuses is given up where giving up is safe.
const GIVE_UP: Duration = Duration::from_secs(300);

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

mod close;
mod driver;
mod prove;
mod safe;

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
                    // Nothing is wrong with the bundle. What is there of it is found again, and the same is asked anew.
                    Err(error @ OtaError::TimeUnknown(_)) => {
                        tether.blocked(vec![error.text()]);
                        tether.pause(LONGEST_PAUSE).await?;
                        Err(error)
                    }
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
                // The other side looked for itself and found the vehicle unsafe, or knows no time to judge signatures by: its
                // result is dropped, and asked for anew.
                Err(
                    error @ (OtaError::NotSafe(_)
                    | OtaError::ConditionsNotMet(_)
                    | OtaError::NoConsent(_)
                    | OtaError::TimeUnknown(_)),
                ) => {
                    tether.blocked(vec![error.text()]);
                    if let Some(receipt) = ended.receipt {
                        self.ports.backend.acknowledge(receipt).await;
                    }
                    tether.pause(self.settings.condition_poll).await?;
                }
                Err(error) if error.is_temporary() => {
                    // A result that says "not now" is stored like any other, and would be found again for ever. Errors of
                    // the bus are no results: the work may be going on.
                    if let Some(receipt) = ended.receipt.filter(|_| !matches!(error, OtaError::Bus(_))) {
                        self.ports.backend.acknowledge(receipt).await;
                    }
                    tether.pause(pause).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    *receipt = ended.receipt;
                    let again = !is_final(&error);
                    if verb == Verb::Commit && again {
                        // Everything runs the new software; an ECU that sleeps or a disk that stumbles gets time before the
                        // next of its few tries, longer each time.
                        tether.blocked(vec![format!("{ecu}: {}", error.text())]);
                        tether.pause(LONGEST_PAUSE * step.failures.saturating_add(1)).await?;
                    }
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
