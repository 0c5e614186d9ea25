use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pitstop_types::{
    Decision, Digest, EcuId, EcuReport, HardwareId, SlotName, SoftwareVersion, UnixSeconds, UpdateEnd, UpdateId,
    UserChoice,
};

use super::{SimSlots, decision};
use crate::{Answer, Boot, Duty, Effect, Event, Failure, Phase, Record, Role};

/// Why a life of the TCU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Cut,
    Restart,
}

/// Counts the points at which power can fail, and fails at those asked for.
#[derive(Debug, Clone, Default)]
pub struct Power {
    pub points: usize,
    /// Points counted from the last cut, in order.
    pub cuts: VecDeque<usize>,
    since_cut: usize,
}

impl Power {
    pub fn cut_at(cuts: impl IntoIterator<Item = usize>) -> Self {
        Self { points: 0, cuts: cuts.into_iter().collect(), since_cut: 0 }
    }

    pub fn point(&mut self) -> Result<(), Stop> {
        let here = self.since_cut;
        self.points += 1;
        self.since_cut += 1;
        if self.cuts.front() == Some(&here) {
            self.cuts.pop_front();
            self.since_cut = 0;
            return Err(Stop::Cut);
        }
        Ok(())
    }
}

/// One effect made not idempotent on purpose, to see that the loop notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Careless {
    /// Activating toggles the bank in place of choosing the new one.
    SwitchToggles,
    /// Rolling back toggles the bank in place of choosing the old one.
    RollBackToggles,
    /// The history gets an entry each time it is asked for.
    HistoryAppends,
}

/// What goes wrong in the vehicle.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// How many orders to activate these ECUs fail.
    pub activate: BTreeMap<EcuId, u32>,
    pub roll_back: BTreeMap<EcuId, u32>,
    pub stage: BTreeMap<EcuId, u32>,
    /// Versions of the TCU that do not come up.
    pub crashing: BTreeSet<String>,
    /// The trial slot finds itself unfit.
    pub unfit: bool,
    /// A bundle that is refused.
    pub refuse: Option<(EcuId, Role)>,
    pub careless: Option<Careless>,
}

/// One ECU's memory.
#[derive(Debug, Clone)]
pub enum SimEcu {
    /// `None`: erased, in its bootloader.
    Single(Option<String>),
    Dual {
        banks: [Option<String>; 2],
        active: usize,
        trial: bool,
    },
}

impl SimEcu {
    pub fn runs(&self) -> Option<&String> {
        match self {
            Self::Single(content) => content.as_ref(),
            Self::Dual { banks, active, .. } => banks[*active].as_ref(),
        }
    }
}

/// The vehicle and what of the services is durable.
#[derive(Debug, Clone)]
pub struct World {
    pub now: UnixSeconds,
    pub power: Power,
    pub faults: Faults,
    pub ecus: BTreeMap<EcuId, SimEcu>,
    pub slots: SimSlots,
    pub decision: Decision,
    /// The record's file.
    pub record: Option<String>,
    pub answers: VecDeque<UserChoice>,
    pub agreed: bool,
    pub admitted: BTreeSet<(EcuId, Role)>,
    pub inhibit: bool,
    pub floors: bool,
    pub reports: Vec<UpdateEnd>,
    pub notices: BTreeSet<String>,
    pub history: Vec<UpdateId>,
    pub boots: u32,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// Set when a record past the point of no return was stored.
    pub commit_begun: bool,
}

impl World {
    /// A vehicle whose ECUs all run 1.0, with a decision for `ecus` (2.0) and a driver who says yes.
    pub fn new(ecus: &[&str]) -> Self {
        let old = || Some("1.0".to_owned());
        let id = |text: &str| EcuId::new(text).expect("an ECU id");
        let dual = || SimEcu::Dual { banks: [old(), None], active: 0, trial: false };
        Self {
            now: 1_000_000,
            power: Power::default(),
            faults: Faults::default(),
            ecus: BTreeMap::from([
                (id("gateway"), dual()),
                (id("adas"), dual()),
                (id("bcm"), SimEcu::Single(old())),
                (id("tpms"), SimEcu::Single(old())),
            ]),
            slots: SimSlots::new("1.0"),
            decision: decision(ecus),
            record: None,
            answers: VecDeque::from([UserChoice::Now]),
            agreed: false,
            admitted: BTreeSet::new(),
            inhibit: false,
            floors: false,
            reports: Vec::new(),
            notices: BTreeSet::new(),
            history: Vec::new(),
            boots: 0,
            violations: Vec::new(),
            commit_begun: false,
        }
    }

    /// Power comes back: boot decision, volatile things are gone.
    pub fn boot(&mut self) -> Boot {
        self.boots += 1;
        self.slots.boot(&self.faults.crashing);
        Boot {
            slot: self.slots.booted.clone(),
            boot_id: format!("boot-{}", self.boots),
            at: self.now,
            reason: String::new(),
        }
    }

    /// Writes the record durably; a cut leaves the old one or the new one.
    pub fn store(&mut self, record: &Record) -> Result<(), Stop> {
        self.power.point()?;
        if record.phase == Phase::Committing {
            self.commit_begun = true;
        }
        self.record = Some(serde_json::to_string(record).expect("a record is JSON"));
        self.power.point()
    }

    pub fn load(&self) -> Option<Record> {
        self.record.as_ref().map(|text| serde_json::from_str(text).expect("the record is readable"))
    }

    /// Does what `effect` asks, with power points around and within it.
    pub fn perform(&mut self, record: &Record, effect: &Effect) -> Result<Event, Stop> {
        self.power.point()?;
        self.now += 1;
        let event = self.act(record, effect)?;
        if self.slots.good.is_empty() {
            self.violations.push(format!("no slot can be booted after {effect:?}"));
        }
        self.power.point()?;
        Ok(event)
    }

    fn act(&mut self, record: &Record, effect: &Effect) -> Result<Event, Stop> {
        Ok(match effect.clone() {
            Effect::Admit { ecu, role } if self.faults.refuse == Some((ecu.clone(), role)) => {
                Event::BundleRefused(Failure::new("HashMismatch", "the bundle is another one").of(&ecu))
            }
            Effect::Admit { ecu, role } => {
                self.admitted.insert((ecu.clone(), role));
                Event::BundleAdmitted { ecu, role }
            }
            Effect::Stage { ecu, attempt } => match self.staging_fails(&ecu) {
                Some(failure) => Event::StepFailed { ecu, attempt, failure, again: true },
                None => {
                    self.stage(&ecu)?;
                    Event::StepStaged { ecu, attempt }
                }
            },
            Effect::Ask { .. } => {
                let choice = self.answers.pop_front().unwrap_or(UserChoice::Now);
                self.agreed = matches!(choice, UserChoice::Now | UserChoice::At { .. });
                // The answer is stored by the hmi before it is told.
                self.answers.push_front(choice);
                let answer = Answer {
                    choice,
                    at: self.now,
                    origin: "hmi".into(),
                    prompt: Digest::of(b"the text"),
                    ask_again_at: self.now + 3600,
                };
                if self.answers.len() > 1 {
                    self.answers.pop_front();
                }
                Event::Answered(answer)
            }
            Effect::MakeSafe { .. } => {
                self.inhibit = true;
                Event::Safe
            }
            Effect::Activate { ecu, attempt } => {
                let failure = self.activation_fails(&ecu);
                self.activate(&ecu, failure.is_some())?;
                match failure {
                    Some(failure) => Event::StepFailed { ecu, attempt, failure, again: true },
                    None => Event::StepActivated { ecu, attempt },
                }
            }
            Effect::Reboot => return Err(Stop::Restart),
            Effect::MarkGood if self.faults.unfit => Event::TrialFailed(Failure::new("Unhealthy", "a unit failed")),
            Effect::MarkGood => {
                self.slots.mark_good();
                Event::MarkedGood
            }
            Effect::ReadBack => Event::ReadBack(self.versions()),
            Effect::Commit { ecu, attempt } => {
                self.commit(&ecu);
                Event::StepCommitted { ecu, attempt }
            }
            Effect::MarkOtherBad => {
                let (booted, other) = (self.slots.booted.clone(), self.slots.other());
                self.slots.choose_old(&booted, &other);
                Event::OtherSlotBad
            }
            Effect::RollBack { ecu, attempt } => match self.roll_back_fails(&ecu) {
                Some(failure) => Event::StepFailed { ecu, attempt, failure, again: true },
                None => {
                    self.roll_back(&ecu)?;
                    Event::StepRolledBack { ecu, attempt }
                }
            },
            Effect::Do(duty) => {
                self.duty(record, duty);
                Event::DutyDone(duty)
            }
        })
    }

    fn version(&self, ecu: &EcuId, role: Role) -> Option<String> {
        let part = self.decision.ecu(ecu)?;
        let bundle = if role == Role::Target { Some(&part.target) } else { part.fallback.as_ref() };
        bundle.map(|bundle| bundle.version.to_string())
    }

    /// Whether this order to activate fails; counts it.
    pub fn activation_fails(&mut self, ecu: &EcuId) -> Option<Failure> {
        failing(&mut self.faults.activate, ecu)
    }

    pub fn staging_fails(&mut self, ecu: &EcuId) -> Option<Failure> {
        failing(&mut self.faults.stage, ecu)
    }

    pub fn roll_back_fails(&mut self, ecu: &EcuId) -> Option<Failure> {
        failing(&mut self.faults.roll_back, ecu)
    }

    /// Writes the other bank or slot, with a point in the middle.
    pub fn stage(&mut self, ecu: &EcuId) -> Result<(), Stop> {
        self.require_admitted(ecu, Role::Target);
        let version = self.version(ecu, Role::Target);
        if ecu.is_tcu() {
            let other = self.slots.other();
            self.slots.set_version(&other, None);
            self.power.point()?;
            self.slots.set_version(&other, version);
        } else if let Some(SimEcu::Dual { banks, active, .. }) = self.ecus.get_mut(ecu) {
            let inactive = 1 - *active;
            banks[inactive] = None;
            self.power.point()?;
            banks[inactive] = version;
        }
        Ok(())
    }

    /// Switches or flashes; `fails`: the new software does not pass its check.
    pub fn activate(&mut self, ecu: &EcuId, fails: bool) -> Result<(), Stop> {
        self.require_admitted(ecu, Role::Target);
        if !self.agreed || !self.inhibit {
            self.violations.push(format!("{ecu} changed without consent or drive inhibit"));
        }
        let version = self.version(ecu, Role::Target);
        let toggles = self.faults.careless == Some(Careless::SwitchToggles);
        if ecu.is_tcu() {
            self.slots.activate(&new_slot());
            return Ok(());
        }
        match self.ecus.get_mut(ecu) {
            Some(SimEcu::Single(content)) => {
                *content = None;
                self.power.point()?;
                if !fails {
                    *content = version;
                }
            }
            Some(SimEcu::Dual { banks, active, trial }) if !fails => {
                let wanted = banks.iter().position(|bank| *bank == version).unwrap_or(*active);
                *active = if toggles { 1 - *active } else { wanted };
                *trial = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub fn commit(&mut self, ecu: &EcuId) {
        if ecu.is_tcu() {
            self.slots.mark_good();
        } else if let Some(SimEcu::Dual { trial, .. }) = self.ecus.get_mut(ecu) {
            *trial = false;
        }
    }

    /// Brings one ECU or the slot back.
    pub fn roll_back(&mut self, ecu: &EcuId) -> Result<(), Stop> {
        if self.commit_begun {
            self.violations.push(format!("{ecu} is rolled back after the point of no return"));
        }
        self.require_admitted(ecu, Role::Fallback);
        let version = self.version(ecu, Role::Fallback);
        let toggles = self.faults.careless == Some(Careless::RollBackToggles);
        if ecu.is_tcu() {
            self.slots.choose_old(&old_slot(), &new_slot());
            return Ok(());
        }
        match self.ecus.get_mut(ecu) {
            Some(SimEcu::Single(content)) if *content != version => {
                *content = None;
                self.power.point()?;
                *content = version;
            }
            Some(SimEcu::Dual { banks, active, trial }) => {
                let wanted = banks.iter().position(|bank| *bank == version).unwrap_or(*active);
                *active = if toggles { 1 - *active } else { wanted };
                *trial = false;
            }
            _ => {}
        }
        Ok(())
    }

    fn duty(&mut self, record: &Record, duty: Duty) {
        let update = record.decision.update.clone();
        match duty {
            Duty::Floors => self.floors = true,
            Duty::Inhibit => self.inhibit = false,
            Duty::Report => self.reports.extend(record.end),
            Duty::History => {
                if self.faults.careless == Some(Careless::HistoryAppends) || !self.history.contains(&update) {
                    self.history.push(update);
                }
            }
            Duty::Notice => {
                self.notices.insert(update.to_string());
            }
            Duty::Release => self.admitted.clear(),
            Duty::Unknown => {}
        }
    }

    /// What every ECU says of itself; who is in its bootloader says so.
    pub fn versions(&self) -> Vec<EcuReport> {
        let report = |ecu: &EcuId, version: Option<&String>| EcuReport {
            ecu: ecu.clone(),
            hardware: HardwareId::new(format!("{ecu}-a1")).expect("a hardware id"),
            version: version.map(|text| SoftwareVersion::new(text.clone()).expect("a version")),
            software_number: String::new(),
            serial: String::new(),
        };
        let mut reports: Vec<EcuReport> = self.ecus.iter().map(|(ecu, sim)| report(ecu, sim.runs())).collect();
        reports.push(report(&EcuId::tcu(), self.slots.version_of(&self.slots.booted)));
        reports
    }

    fn require_admitted(&mut self, ecu: &EcuId, role: Role) {
        if !self.admitted.contains(&(ecu.clone(), role)) {
            self.violations.push(format!("{ecu} is written from a bundle that is not admitted"));
        }
    }
}

/// The slot that runs when the update is planned.
fn old_slot() -> SlotName {
    super::slots::slot("A")
}

fn new_slot() -> SlotName {
    super::slots::slot("B")
}

fn failing(faults: &mut BTreeMap<EcuId, u32>, ecu: &EcuId) -> Option<Failure> {
    let left = faults.get_mut(ecu).filter(|left| **left > 0)?;
    *left = left.saturating_sub(1);
    Some(Failure::new("CheckFailed", "the check routine said no").of(ecu))
}
