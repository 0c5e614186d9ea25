use std::fmt::Write as _;

use super::*;
use crate::{GrubVars, SlotPair};

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

fn update(text: &str) -> UpdateId {
    UpdateId::new(text).unwrap()
}

fn image() -> SlotImage {
    SlotImage {
        version: SoftwareVersion::new("2.0").unwrap(),
        counter: ReleaseCounter(2),
        length: 4096,
        sha256: Digest::of(b"image"),
    }
}

/// A TCU in a few lines: record, boot variables, what the slots hold, and what runs.
#[derive(Clone)]
struct Tcu {
    record: SlotRecord,
    vars: BootVars,
    booted: SlotName,
    b_is_new: bool,
}

/// Counts durable steps and dies at one of them.
struct Power {
    left: u32,
}

impl Power {
    fn step(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

impl Tcu {
    fn new() -> Self {
        let pair = SlotPair::new(name("A"), name("B")).unwrap();
        let mut vars = BootVars::Grub(GrubVars::fresh(&name("A"), &pair));
        // As a factory may leave it: both good.
        vars.mark_good(&name("B")).unwrap();
        let booted = vars.boot().slot;
        let mut tcu = Self { record: SlotRecord::new(booted.clone()), vars, booted, b_is_new: false };
        assert!(tcu.start_service(&mut Power { left: 99 }));
        tcu
    }

    /// Stores what `change` makes of the record, then does what it asks for. `false`: the power failed.
    fn run(&mut self, power: &mut Power, change: impl FnOnce(&mut SlotRecord)) -> bool {
        let mut record = self.record.clone();
        change(&mut record);
        loop {
            if record != self.record {
                if !power.step() {
                    return false;
                }
                self.record = record.clone();
            }
            let Some(effect) = record.effect() else { return true };
            // Cut before the act, and after it before it is recorded.
            if !power.step() {
                return false;
            }
            match effect {
                Effect::MarkBad(slot) => self.vars.mark_bad(&slot).unwrap(),
                Effect::Write(slot, _) => {
                    assert_ne!(slot, self.booted);
                    assert_eq!(self.vars.health(&slot), Health::Bad, "marked bad before it is written");
                    self.b_is_new = true;
                }
                Effect::TryOnce(slot) => self.vars.try_once(&slot).unwrap(),
                Effect::MarkGood(slot) => self.vars.mark_good(&slot).unwrap(),
                Effect::SettleOn(slot) => self.vars.settle_on(&slot).unwrap(),
            }
            record.done();
        }
    }

    fn start_service(&mut self, power: &mut Power) -> bool {
        let (booted, vars) = (self.booted.clone(), self.vars.clone());
        let mut mark = None;
        let lived = self.run(power, |record| mark = record.started(&booted, &vars).mark_good);
        if let Some(slot) = mark {
            self.vars.mark_good(&slot).unwrap();
        }
        lived
    }

    fn reboot(&mut self) {
        self.booted = self.vars.boot().slot;
    }

    fn phase(&self) -> Option<Phase> {
        self.record.installation.as_ref().map(|now| now.phase)
    }
}

#[test]
fn the_table_is_what_the_page_shows() {
    let verbs = [Verb::Activate, Verb::MarkGood, Verb::Commit, Verb::RollBack];
    let mut table = format!(
        "{:14}{:16}{:16}{:16}{:16}{:16}{:16}\n",
        "", "Activate", "MarkGood", "Commit", "RollBack", "target runs", "old runs, tried"
    );
    let mut vars = Tcu::new().vars;
    vars.try_once(&name("B")).unwrap();
    vars.boot();
    for phase in Phase::ALL {
        let _ = write!(table, "{:14}", phase.as_str());
        for verb in verbs {
            let cell = match next(phase, verb) {
                Ok(Some(to)) => to.as_str(),
                Ok(None) => "=",
                Err(_) => "-",
            };
            let _ = write!(table, "{cell:16}");
        }
        let now = Installation { update: update("u1"), target: name("B"), image: image(), phase };
        let _ = writeln!(table, "{:16}{}", runs(phase).as_str(), runs_not(&now, &vars));
    }
    insta::assert_snapshot!(table);
}

#[test]
fn an_update_goes_from_stage_to_commit() {
    let (mut tcu, mut power, u) = (Tcu::new(), Power { left: 99 }, update("u1"));
    tcu.run(&mut power, |r| assert!(r.stage(u.clone(), name("B"), image(), &name("A")).unwrap()));
    assert_eq!(tcu.phase(), Some(Phase::Staged));
    tcu.run(&mut power, |r| assert!(r.activate(&u).unwrap()));
    assert!(tcu.record.reboot_due(&tcu.booted));
    tcu.start_service(&mut power);
    assert_eq!(tcu.phase(), Some(Phase::Activated), "a restart of the service is no fall-back");
    tcu.reboot();
    tcu.start_service(&mut power);
    assert_eq!((tcu.phase(), tcu.booted.as_str()), (Some(Phase::Trial), "B"));
    assert_eq!(tcu.vars.health(&name("B")), Health::Bad);
    tcu.run(&mut power, |r| assert!(r.mark_good(&u).unwrap()));
    assert_eq!(tcu.vars.health(&name("B")), Health::Good);
    tcu.run(&mut power, |r| assert!(r.commit(&u).unwrap()));
    assert_eq!((tcu.phase(), tcu.record.committed.as_str()), (Some(Phase::Committed), "B"));
    assert_eq!(tcu.record.roll_back(&u), Err(PhaseError::NotNow { verb: "rolling back", phase: Phase::Committed }));
    for _ in 0..4 {
        tcu.reboot();
        assert_eq!(tcu.booted, name("B"));
    }
}

#[test]
fn a_bootable_slot_stays_the_one_that_starts_until_it_is_decided() {
    let (mut tcu, mut power, u) = (Tcu::new(), Power { left: 99 }, update("u1"));
    tcu.run(&mut power, |r| assert!(r.stage(u.clone(), name("B"), image(), &name("A")).unwrap()));
    tcu.run(&mut power, |r| assert!(r.activate(&u).unwrap()));
    tcu.reboot();
    tcu.start_service(&mut power);
    tcu.run(&mut power, |r| assert!(r.mark_good(&u).unwrap()));
    for _ in 0..4 {
        tcu.reboot();
        tcu.start_service(&mut power);
        assert_eq!((tcu.phase(), tcu.booted.as_str()), (Some(Phase::Bootable), "B"));
    }
}

#[test]
fn a_slot_that_does_not_come_up_is_left_and_marked_bad() {
    let (mut tcu, mut power, u) = (Tcu::new(), Power { left: 99 }, update("u1"));
    tcu.run(&mut power, |r| assert!(r.stage(u.clone(), name("B"), image(), &name("A")).unwrap()));
    tcu.run(&mut power, |r| assert!(r.activate(&u).unwrap()));
    tcu.reboot(); // B hangs before the service starts, the watchdog bites
    tcu.reboot();
    tcu.start_service(&mut power);
    assert_eq!((tcu.phase(), tcu.booted.as_str()), (Some(Phase::FellBack), "A"));
    assert_eq!((tcu.vars.health(&name("A")), tcu.vars.health(&name("B"))), (Health::Good, Health::Bad));
    assert!(tcu.record.activate(&u).is_err());
    assert_eq!(tcu.record.roll_back(&u), Ok(false));
    // The same update may be staged anew and goes on from there.
    assert_eq!(tcu.record.stage(u, name("B"), image(), &name("A")), Ok(true));
}

#[test]
fn the_running_slot_is_never_written() {
    let mut record = SlotRecord::new(name("A"));
    assert_eq!(
        record.stage(update("u1"), name("A"), image(), &name("A")),
        Err(PhaseError::Booted { target: name("A") })
    );
    let unsettled = record.stage(update("u1"), name("A"), image(), &name("B"));
    assert!(
        matches!(unsettled, Err(PhaseError::Unsettled { .. })),
        "the committed slot is not overwritten from an unproven one"
    );
    assert_eq!(record, SlotRecord::new(name("A")));
}

#[test]
fn nothing_is_staged_over_a_slot_on_trial() {
    let u = update("u1");
    for phase in Phase::ALL {
        let installation = Installation { update: u.clone(), target: name("B"), image: image(), phase };
        let mut record = SlotRecord { committed: name("A"), installation: Some(installation) };
        let allowed = record.stage(update("u2"), name("B"), image(), &name("A")).is_ok();
        assert_eq!(allowed, phase.is_end() || phase <= Phase::Staged, "{phase}");
    }
}

/// What `self-update`'s caller does: it repeats the next verb of its own plan until it is done.
fn drive(tcu: &mut Tcu, power: &mut Power, undo: bool) -> bool {
    let u = update("u1");
    if !tcu.start_service(power) {
        return false;
    }
    match tcu.phase() {
        None => tcu.run(power, |r| drop(r.stage(u.clone(), name("B"), image(), &name("A")))),
        Some(Phase::Staged) => tcu.run(power, |r| drop(r.activate(&u))),
        Some(Phase::Activated) => {
            tcu.reboot();
            power.step()
        }
        Some(Phase::Trial) => tcu.run(power, |r| drop(r.mark_good(&u))),
        Some(Phase::Bootable) if undo => tcu.run(power, |r| drop(r.roll_back(&u))),
        Some(Phase::Bootable) => tcu.run(power, |r| drop(r.commit(&u))),
        Some(Phase::RolledBack) if tcu.record.reboot_due(&tcu.booted) => {
            tcu.reboot();
            power.step()
        }
        _ => true,
    }
}

fn cut_everywhere(undo: bool) {
    for cut in 1..60 {
        let mut tcu = Tcu::new();
        let mut power = Power { left: cut };
        for _ in 0..60 {
            if !drive(&mut tcu, &mut power, undo) {
                tcu.reboot();
                power = Power { left: u32::MAX };
            }
            assert!(tcu.booted == name("A") || tcu.b_is_new, "a slot that was never written runs (cut {cut})");
        }
        let end = tcu.phase().unwrap();
        // Between the try and the record of it a cut uses up the try: falling back is right then.
        let all_old = matches!(end, Phase::RolledBack | Phase::FellBack)
            && tcu.booted == name("A")
            && tcu.record.committed == name("A");
        let all_new = end == Phase::Committed && tcu.booted == name("B") && tcu.record.committed == name("B");
        assert!(if undo { all_old } else { all_new || all_old }, "cut {cut}: {end}, {} runs", tcu.booted);
        assert_eq!(tcu.vars.health(&tcu.booted), Health::Good);
        for _ in 0..4 {
            let before = tcu.booted.clone();
            tcu.reboot();
            assert_eq!(tcu.booted, before, "cut {cut}");
        }
    }
}

#[test]
fn a_cut_at_every_step_of_an_update_ends_all_new_or_all_old() {
    cut_everywhere(false);
}

#[test]
fn a_cut_at_every_step_of_an_undone_update_ends_all_old() {
    cut_everywhere(true);
}

#[test]
fn an_older_reader_still_reads_the_record() {
    // As the first release stored it. If this fails, mend the change, not the text.
    let stored = format!(
        r#"{{"committed":"A","installation":{{"update":"u1","target":"B","image":{{"version":"2.0","counter":2,"length":4096,"sha256":"{}"}},"phase":"fell-back"}}}}"#,
        Digest::of(b"image")
    );
    let record: SlotRecord = serde_json::from_str(&stored).unwrap();
    assert_eq!(record.installation.as_ref().map(|now| now.phase), Some(Phase::FellBack));
    assert_eq!(serde_json::to_string(&record).unwrap(), stored);
}
