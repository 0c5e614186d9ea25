use pitstop_store::cut::{Cut, Disk};

use super::*;

const AHEAD_SECS: i64 = 30 * 24 * 3600;
const NOW: Option<UnixSeconds> = Some(1_800_000_000);

fn update(text: &str) -> UpdateId {
    UpdateId::new(text).unwrap()
}

fn facts(purpose: &str) -> PromptFacts {
    PromptFacts {
        purpose: purpose.into(),
        changes: "Brake control 4.2".into(),
        expected_secs: 600,
        unavailable: "Driving".into(),
        instructions: "Park and leave the vehicle".into(),
    }
}

fn desk(disk: &Disk) -> Desk {
    Desk::load(Arc::new(disk.storage()), Duration::from_secs(AHEAD_SECS as u64)).unwrap()
}

fn asked(disk: &Disk) -> (Desk, Digest) {
    let mut desk = desk(disk);
    desk.ask(&update("u1"), facts("Safety"), NOW).unwrap();
    let digest = desk.prompt(&update("u1")).unwrap().digest;
    (desk, digest)
}

fn answer(desk: &mut Desk, choice: UserChoice, digest: Digest) -> Result<Vec<Change>, DeskError> {
    desk.answer(&update("u1"), choice, Origin::Hmi, digest, NOW)
}

#[test]
fn asking_the_same_again_finds_the_prompt_and_changes_nothing() {
    let disk = Disk::new();
    let (mut desk, _) = asked(&disk);
    let writes = disk.writes();
    assert!(desk.ask(&update("u1"), facts("Safety"), Some(1)).unwrap().is_empty());
    assert_eq!(disk.writes(), writes);
}

#[test]
fn another_text_is_another_prompt_without_the_old_answer() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    answer(&mut desk, UserChoice::Now, digest).unwrap();
    let changes = desk.ask(&update("u1"), facts("Comfort"), NOW).unwrap();
    assert!(
        matches!(&changes[..], [Change::PromptForgotten(old), Change::PromptAdded(new)] if old.digest == digest && new.digest != digest)
    );
    assert_eq!(desk.prompt(&update("u1")).unwrap().answer, None);
    assert!(matches!(answer(&mut desk, UserChoice::Now, digest), Err(DeskError::TextChanged(_))));
}

#[test]
fn the_first_answer_wins_and_later_ones_get_a_named_error() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    answer(&mut desk, UserChoice::Later, digest).unwrap();
    assert!(matches!(
        answer(&mut desk, UserChoice::Now, digest),
        Err(DeskError::AlreadyAnswered { choice: "later", .. })
    ));
    assert_eq!(desk.prompt(&update("u1")).unwrap().answer.as_ref().unwrap().choice, UserChoice::Later);
}

#[test]
fn a_time_lies_between_now_and_thirty_days_ahead() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    let now = NOW.unwrap();
    for unix_secs in [0, now - 61, now + AHEAD_SECS + 1, i64::MAX, i64::MIN] {
        assert!(
            matches!(answer(&mut desk, UserChoice::At { unix_secs }, digest), Err(DeskError::Time { .. })),
            "{unix_secs}"
        );
    }
    let at = UserChoice::At { unix_secs: now + 3600 };
    assert!(matches!(desk.answer(&update("u1"), at, Origin::Hmi, digest, None), Err(DeskError::TimeUnknown)));
    answer(&mut desk, at, digest).unwrap();
}

#[test]
fn a_prompt_can_be_asked_again_unless_it_was_declined() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    answer(&mut desk, UserChoice::Later, digest).unwrap();
    assert!(matches!(&desk.ask_again(&update("u1")).unwrap()[..], [Change::PromptAdded(_)]));
    assert!(desk.ask_again(&update("u1")).unwrap().is_empty());
    answer(&mut desk, UserChoice::No, digest).unwrap();
    assert!(matches!(desk.ask_again(&update("u1")), Err(DeskError::Declined(_))));
    let log: Vec<_> = desk.consents.entries::<Consent>().unwrap().into_iter().map(|e| e.data.answer.choice).collect();
    assert_eq!(log, [UserChoice::Later, UserChoice::No]);
}

#[test]
fn a_withdrawn_prompt_keeps_its_answer_and_takes_no_other() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    assert_eq!(desk.withdraw(&update("u1")).unwrap().len(), 1);
    assert!(desk.withdraw(&update("u1")).unwrap().is_empty());
    assert!(desk.withdraw(&update("other")).unwrap().is_empty());
    assert!(matches!(answer(&mut desk, UserChoice::Now, digest), Err(DeskError::NotOpen(_))));
    assert!(matches!(desk.prompt(&update("other")), Err(DeskError::UnknownUpdate(_))));
    desk.ask(&update("u1"), facts("Safety"), NOW).unwrap();
    answer(&mut desk, UserChoice::Now, digest).unwrap();
    desk.withdraw(&update("u1")).unwrap();
    assert!(desk.ask(&update("u1"), facts("Safety"), NOW).unwrap().is_empty());
    assert!(desk.prompt(&update("u1")).unwrap().answer.is_some());
}

#[test]
fn facts_must_be_complete() {
    let mut desk = desk(&Disk::new());
    assert!(matches!(desk.ask(&update("u1"), facts(" "), NOW), Err(DeskError::Facts(_))));
    assert!(desk.prompts().is_empty());
}

#[test]
fn a_notice_stays_until_acknowledged_across_restarts_and_is_shown_once() {
    let disk = Disk::new();
    let say = |desk: &mut Desk| desk.notify(&update("u1"), UpdateEnd::AllNew, "Done", NOW).unwrap().len();
    assert_eq!(say(&mut desk(&disk)), 1);
    let mut again = desk(&disk);
    assert_eq!(again.notices().len(), 1);
    assert_eq!(say(&mut again), 0);
    assert_eq!(again.acknowledge(&update("u1")).unwrap().len(), 1);
    assert_eq!(again.acknowledge(&update("u1")).unwrap().len(), 0);
    let mut last = desk(&disk);
    assert!(last.notices().is_empty());
    assert_eq!(say(&mut last), 0);
    assert!(matches!(last.notify(&update("u2"), UpdateEnd::AllOld, "", NOW), Err(DeskError::NoticeText)));
}

#[test]
fn old_answers_make_room_and_open_prompts_do_not() {
    let mut desk = desk(&Disk::new());
    for n in 0..MAX_KEPT {
        desk.ask(&update(&format!("u{n}")), facts("Safety"), NOW).unwrap();
    }
    assert!(matches!(desk.ask(&update("more"), facts("Safety"), NOW), Err(DeskError::Full)));
    let digest = desk.prompt(&update("u7")).unwrap().digest;
    desk.answer(&update("u7"), UserChoice::No, Origin::CommandLine, digest, NOW).unwrap();
    let changes = desk.ask(&update("more"), facts("Safety"), NOW).unwrap();
    assert!(
        matches!(&changes[..], [Change::PromptForgotten(old), Change::PromptAdded(_)] if old.update == update("u7"))
    );
}

#[test]
fn a_damaged_prompt_or_notice_is_put_aside_and_the_others_are_served() {
    let disk = Disk::new();
    let (mut whole, _) = asked(&disk);
    whole.ask(&update("u2"), facts("Safety"), NOW).unwrap();
    for id in ["u1", "u2"] {
        whole.notify(&update(id), UpdateEnd::AllNew, "Done", NOW).unwrap();
    }
    let good = disk.files();
    for name in ["prompts/u1", "notices/u2"] {
        for at in 0..good[name].len() {
            let mut bad = good[name].clone();
            bad[at] ^= 2;
            disk.storage().replace(name, &bad).unwrap();
            // The second start finds what the first one left.
            for mut desk in [desk(&disk), desk(&disk)] {
                let prompts: Vec<_> = desk.prompts().iter().map(|prompt| prompt.update.to_string()).collect();
                let notices: Vec<_> = desk.notices().iter().map(|notice| notice.update.to_string()).collect();
                match name {
                    "prompts/u1" => assert_eq!((prompts, notices.len()), (vec!["u2".to_owned()], 2), "byte {at}"),
                    _ => assert_eq!((prompts.len(), notices), (2, vec!["u1".to_owned()]), "byte {at}"),
                }
                assert!(desk.ask(&update("u2"), facts("Safety"), NOW).unwrap().is_empty());
            }
            assert_eq!(disk.files()[&format!("{name}.damaged")], bad);
        }
        disk.storage().replace(name, &good[name]).unwrap();
    }
    // One that was put aside can be asked and told again.
    disk.storage().replace("prompts/u1", b"?").unwrap();
    let mut again = desk(&disk);
    assert!(matches!(again.prompt(&update("u1")), Err(DeskError::UnknownUpdate(_))));
    assert_eq!(again.ask(&update("u1"), facts("Safety"), NOW).unwrap().len(), 1);
    assert_eq!(desk(&disk).prompts().len(), 2);
}

#[test]
fn a_later_answer_is_never_the_older_one_whatever_the_clock_says() {
    let disk = Disk::new();
    let (_, digest) = asked(&disk);
    let set_back = NOW.map(|now| now - 3600);
    let far_ahead = NOW.map(|now| now + 3600);
    let mut newest = None;
    for (now, expected) in [(NOW, 0), (NOW, 1), (set_back, 2), (None, 3), (far_ahead, 3600), (None, 3601)] {
        // Each in a life of its own, so that it must be known from the disk.
        let mut desk = desk(&disk);
        desk.answer(&update("u1"), UserChoice::Later, Origin::Hmi, digest, now).unwrap();
        let at = desk.prompt(&update("u1")).unwrap().answer.as_ref().unwrap().answered_at;
        assert_eq!(at, NOW.unwrap() + expected);
        assert!(newest.replace(at).is_none_or(|before| at > before));
        desk.ask_again(&update("u1")).unwrap();
    }
    // Another text is another prompt, but of the same update.
    let mut desk = desk(&disk);
    desk.ask(&update("u1"), facts("Comfort"), None).unwrap();
    let digest = desk.prompt(&update("u1")).unwrap().digest;
    desk.answer(&update("u1"), UserChoice::Now, Origin::Hmi, digest, None).unwrap();
    assert_eq!(desk.prompt(&update("u1")).unwrap().last_answered_at(), newest.map(|at| at + 1));
}

#[test]
fn of_a_first_answer_without_a_clock_the_time_is_0_and_of_the_second_it_is_not() {
    let disk = Disk::new();
    let (mut desk, digest) = asked(&disk);
    for expected in [0, 1] {
        desk.answer(&update("u1"), UserChoice::Later, Origin::Hmi, digest, None).unwrap();
        assert_eq!(desk.prompt(&update("u1")).unwrap().last_answered_at(), Some(expected));
        desk.ask_again(&update("u1")).unwrap();
    }
}

#[test]
fn a_prompt_of_an_earlier_release_is_read_and_its_answer_counts_as_the_one_before() {
    let disk = Disk::new();
    let (mut answered, digest) = asked(&disk);
    answer(&mut answered, UserChoice::Later, digest).unwrap();
    let mut stored = serde_json::to_value(answered.prompt(&update("u1")).unwrap()).unwrap();
    stored.as_object_mut().unwrap().remove("answered_before").unwrap();
    Document::new(Arc::new(disk.storage()), "prompts/u1", FORMAT).store(&stored).unwrap();
    let mut desk = desk(&disk);
    desk.ask_again(&update("u1")).unwrap();
    desk.answer(&update("u1"), UserChoice::Now, Origin::Hmi, digest, None).unwrap();
    assert_eq!(desk.prompt(&update("u1")).unwrap().last_answered_at(), NOW.map(|now| now + 1));
}

/// Ask, answer and notify with a cut at each write: after a restart the calls are made again, as their callers do.
#[test]
fn a_power_cut_at_any_write_loses_no_answer_that_was_told_and_logs_each_once() {
    let run = |disk: &Disk| -> Result<bool, DeskError> {
        let mut desk = Desk::load(Arc::new(disk.storage()), Duration::from_secs(AHEAD_SECS as u64))?;
        desk.ask(&update("u1"), facts("Safety"), NOW)?;
        let digest = desk.prompt(&update("u1"))?.digest;
        let told = match answer(&mut desk, UserChoice::Now, digest) {
            Ok(_) => true,
            Err(DeskError::AlreadyAnswered { choice: "now", .. }) => false,
            Err(other) => return Err(other),
        };
        desk.notify(&update("u1"), UpdateEnd::AllNew, "Done", NOW)?;
        Ok(told)
    };
    let disk = Disk::new();
    run(&disk).unwrap();
    let writes = disk.writes();
    assert_eq!(writes, 4, "prompt, answer, log, notice");
    for cut in (0..writes).flat_map(|n| [Cut::Before(n), Cut::After(n), Cut::Torn(n)]) {
        let disk = Disk::new();
        disk.plan(Some(cut));
        assert!(run(&disk).is_err(), "{cut:?}");
        disk.power_on();
        run(&disk).unwrap();
        let desk = desk(&disk);
        assert_eq!(desk.consents.entries::<Consent>().unwrap().len(), 1, "{cut:?}");
        assert!(desk.consents.verify().unwrap().whole);
        assert_eq!(desk.prompt(&update("u1")).unwrap().answer.as_ref().unwrap().choice, UserChoice::Now);
        assert_eq!(desk.notices().len(), 1);
    }
}
