//! The task against slots that keep their own record, as `self-update` does, and a machine that loses its power.

#[path = "workshop_tests/world.rs"]
mod world;

use pitstop_store::cut::Cut;

use super::*;
use world::*;

#[tokio::test(start_paused = true)]
async fn a_good_update_is_kept_after_a_trial() {
    let bench = Bench::new();
    let mut task = bench.boot();
    assert_eq!(transfer(&mut task).await, Ok(vec![]));
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_OK]));
    assert_eq!(bench.phase(), "staged");
    assert_eq!(ask(&mut task, Order::Restart).await, Ok(vec![]));
    let mut task = bench.boot();
    assert_eq!(bench.phase(), "trial");
    task.look().await;
    tokio::time::advance(Duration::from_secs(19)).await;
    task.look().await;
    assert_eq!(bench.stored().unwrap().wish, Wish::Try, "not before it was well for long enough");
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "good"), Wish::Kept);
}

#[tokio::test(start_paused = true)]
async fn whatever_write_or_call_is_cut_it_ends_in_one_of_the_two_slots() {
    for tried_before in [false, true] {
        cut_everywhere(tried_before).await;
    }
}

/// `tried_before`: the slots remember a try with the same package that was rolled back.
async fn cut_everywhere(tried_before: bool) {
    let start = || {
        let bench = Bench::new();
        if tried_before {
            let mut world = bench.fake.world();
            world.verb(|slots| slots.stage(id("w-1"), slot("B"), image(), &slot("A"))).unwrap();
            world.verb(|slots| slots.roll_back(&id("w-1"))).unwrap();
        }
        bench
    };
    let whole = start();
    workday(&whole, &mut whole.boot()).await;
    let calls = whole.fake.world().calls;
    assert_eq!(check_end(&whole, "uncut"), Wish::Kept);
    let mut hit = 0;
    // There are fewer writes than calls.
    for number in 0..calls {
        for (on_disk, cut) in [
            (true, Cut::Before(number)),
            (true, Cut::After(number)),
            (false, Cut::Before(number)),
            (false, Cut::After(number)),
        ] {
            let bench = start();
            let mut task = bench.boot();
            match on_disk {
                true => bench.fake.disk.plan(Some(cut)),
                false => bench.fake.world().cut = Some(cut),
            }
            for _ in 0..6 {
                workday(&bench, &mut task).await;
                if bench.fake.disk.is_off() {
                    hit += 1;
                    task = bench.boot();
                }
            }
            let what = format!("tried before: {tried_before}, {cut:?} of {}", if on_disk { "writes" } else { "calls" });
            check_end(&bench, &what);
        }
    }
    assert!(hit > 2 * calls, "{hit} cuts for {calls} calls: every call, and some writes");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_well_is_left_at_once_while_the_vehicle_is_held() {
    let bench = Bench::new();
    let mut task = bench.boot();
    install(&mut task).await;
    let mut task = bench.boot();
    bench.fake.world().well = false;
    look(&bench, &mut task).await;
    assert!(bench.fake.world().restart, "it has been held since before the trial");
    let mut task = bench.boot();
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "unhealthy"), Wish::Left);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_well_is_left_with_the_next_start_once_the_vehicle_drives() {
    let bench = Bench::new();
    let mut task = bench.boot();
    install(&mut task).await;
    let mut task = bench.boot();
    (bench.fake.world().well, bench.fake.world().safe) = (false, false);
    for _ in 0..120 {
        let pause = task.look().await;
        tokio::time::advance(pause).await;
    }
    let record = bench.stored().unwrap();
    assert_eq!((record.wish, record.error.as_str()), (Wish::Undo, "Unhealthy: Validator does not answer"));
    task.tell();
    assert!(task.status.borrow().ends_with("wish=undo;phase=rolled-back;error=Unhealthy: Validator does not answer"));
    assert!(!bench.fake.world().restart, "it drives");
    // A red light.
    bench.fake.world().safe = true;
    look(&bench, &mut task).await;
    assert!(!bench.fake.world().restart);
    assert!(!bench.fake.world().held);
    assert_eq!(bench.fake.world().vars.primary(), Some(&slot("A")), "the next start leaves it");
    // A tester may ask for that start.
    assert_eq!(ask(&mut task, Order::Restart).await, Ok(vec![]));
    assert!(bench.fake.world().restart);
    let mut task = bench.boot();
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "unhealthy"), Wish::Left);
    task.tell();
    assert!(task.status.borrow().ends_with("phase=rolled-back;error=Unhealthy: Validator does not answer"));
    // And the next good one works.
    bench.fake.world().well = true;
    workday(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "the next"), Wish::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_does_not_come_up_is_left_by_the_boot_loader() {
    let bench = Bench::new();
    let mut task = bench.boot();
    install(&mut task).await;
    bench.fake.world().vars.boot();
    let mut task = bench.boot();
    assert_eq!(bench.phase(), "fell-back");
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "hung"), Wish::Left);
}

#[tokio::test(start_paused = true)]
async fn a_tester_rolls_back_until_it_is_committed() {
    // Before the restart: nothing runs that has to be left.
    let bench = Bench::new();
    let mut task = bench.boot();
    assert_eq!(ask(&mut task, Order::RollBack).await, Err(Nrc::RequestSequenceError), "nothing there");
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    assert_eq!(ask(&mut task, Order::RollBack).await, Ok(vec![STATUS_OK]));
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "staged"), Wish::Left);
    // In the trial.
    install(&mut task).await;
    let mut task = bench.boot();
    assert_eq!(ask(&mut task, Order::RollBack).await, Ok(vec![STATUS_RESTART]));
    look(&bench, &mut task).await;
    let mut task = bench.boot();
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "trial"), Wish::Left);
    // Received, and rolled back in an earlier life of the same package.
    transfer(&mut task).await.unwrap();
    task.look().await;
    assert_eq!(task.phase, "received");
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect));
    assert_eq!(ask(&mut task, Order::RollBack).await, Ok(vec![STATUS_OK]));
    assert_eq!(check_end(&bench, "received"), Wish::Left);
    // After the commit.
    workday(&bench, &mut task).await;
    assert_eq!(ask(&mut task, Order::RollBack).await, Err(Nrc::RequestSequenceError));
    assert_eq!(check_end(&bench, "committed"), Wish::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_refused_package_ends_the_transfer_and_its_reason_is_told() {
    let bench = Bench::new();
    let mut task = bench.boot();
    assert_eq!(ask(&mut task, Order::Block(vec![1])).await, Err(Nrc::TransferDataSuspended), "none is open");
    assert_eq!(ask(&mut task, Order::Close).await, Err(Nrc::RequestSequenceError));
    ask(&mut task, Order::Open(REFUSED)).await.unwrap();
    assert_eq!(ask(&mut task, Order::Block(vec![1])).await, Err(Nrc::TransferDataSuspended));
    assert_eq!(task.error, "UnmetThreshold: offline targets");
    ask(&mut task, Order::Open(9)).await.unwrap();
    ask(&mut task, Order::Block(PACKAGE[..5].to_vec())).await.unwrap();
    assert_eq!(ask(&mut task, Order::Close).await, Err(Nrc::GeneralProgrammingFailure));
    assert!(task.error.starts_with("LengthMismatch"), "{}", task.error);
    ask(&mut task, Order::Open(9)).await.unwrap();
    ask(&mut task, Order::Abort).await.unwrap();
    assert_eq!(ask(&mut task, Order::Close).await, Err(Nrc::RequestSequenceError));
    assert_eq!(ask(&mut task, Order::Verify).await, Err(Nrc::RequestSequenceError));
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect));
    assert_eq!((bench.stored(), bench.phase()), (None, String::new()), "nothing was begun");
}

#[tokio::test(start_paused = true)]
async fn conditions_are_refused_as_conditions_and_can_be_tried_again() {
    let bench = Bench::new();
    let mut task = bench.boot();
    bench.fake.world().busy = true;
    assert_eq!(transfer(&mut task).await, Err(Nrc::ConditionsNotCorrect));
    assert_eq!(task.error, "Busy: u-1");
    bench.fake.world().busy = false;
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    bench.fake.world().safe = false;
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect));
    assert_eq!(task.error, "NotSafe: Vehicle.Speed is 50");
    bench.fake.world().safe = true;
    assert_eq!(ask(&mut task, Order::Restart).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_is_refused_leaves_no_slot_to_be_tried_and_the_package_goes_in_again() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    bench.fake.world().rolls = true;
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect));
    assert_eq!(task.error, "NotSafe: Vehicle.Speed is 50");
    task.look().await;
    task.tell();
    assert_eq!(
        *task.status.borrow(),
        "update=w-1;version=2.0;wish=new;phase=received;error=NotSafe: Vehicle.Speed is 50"
    );
    assert_eq!(bench.fake.world().vars.primary(), Some(&slot("A")));
    assert!(bench.fake.world().ended.is_empty(), "the package is still admitted");
    // It stands again.
    (bench.fake.world().rolls, bench.fake.world().safe) = (false, true);
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect), "nothing is staged");
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_OK]));
    assert_eq!(ask(&mut task, Order::Restart).await, Ok(vec![]));
    let mut task = bench.boot();
    look(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "the second restart"), Wish::Kept);
}

/// The record as a bad sector leaves it.
fn damage(bench: &Bench) {
    bench.fake.disk.storage().replace("workshop", b"pitstop 1 rubbish").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_put_aside_and_what_is_in_the_slots_goes_on() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    damage(&bench);
    let mut task = bench.start();
    assert!(bench.fake.disk.storage().read("workshop.damaged").unwrap().is_some());
    assert_eq!(ask(&mut task, Order::Restart).await, Ok(vec![]), "the tester goes on where it was");
    damage(&bench);
    let mut task = bench.boot();
    assert_eq!(bench.phase(), "trial");
    // Cut before anything was known: it is still known to be lost.
    drop(bench.start());
    for _ in 0..60 {
        let pause = task.look().await;
        tokio::time::advance(pause).await;
    }
    assert_eq!(check_end(&bench, "the trial is judged"), Wish::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_of_nothing_is_forgotten() {
    let bench = Bench::new();
    damage(&bench);
    let mut task = bench.boot();
    assert!(task.is_awake());
    task.look().await;
    assert!(!task.is_awake());
    assert_eq!(bench.stored(), None);
    workday(&bench, &mut task).await;
    assert_eq!(check_end(&bench, "the next package"), Wish::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_reads_back_wrong_is_an_answer_and_the_next_attempt_has_a_new_number() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    bench.fake.world().rotten = true;
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_FAILED]));
    assert!(task.error.starts_with("SlotFailed"));
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::ConditionsNotCorrect));
    bench.fake.world().rotten = false;
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_OK]));
    assert_eq!(bench.fake.world().stages, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_kept_result_of_an_earlier_life_is_not_believed() {
    let bench = Bench::new();
    bench.fake.world().stages.push(1);
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_FAILED]));
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_OK]));
    assert_eq!(bench.phase(), "staged");
}

#[tokio::test(start_paused = true)]
async fn a_package_that_lacks_only_its_exit_never_reaches_the_validator_whole() {
    let bench = Bench::new();
    let mut task = bench.boot();
    for block in [1, 5, PACKAGE.len()] {
        ask(&mut task, Order::Open(PACKAGE.len() as u64)).await.unwrap();
        for bytes in PACKAGE.chunks(block) {
            assert_eq!(ask(&mut task, Order::Block(bytes.to_vec())).await, Ok(vec![]));
        }
        ask(&mut task, Order::Abort).await.unwrap();
        let (mut received, mut pipe) = (Vec::new(), bench.fake.world().pipe.take().unwrap());
        std::io::Read::read_to_end(&mut pipe, &mut received).unwrap();
        assert_eq!(received, PACKAGE[..PACKAGE.len() - 1], "blocks of {block}");
        assert_eq!((ask(&mut task, Order::Close).await, bench.stored()), (Err(Nrc::RequestSequenceError), None));
    }
    assert_eq!(transfer(&mut task).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_new_package_takes_the_place_of_one_that_is_only_staged() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    bench.fake.world().update = "w-2".to_owned();
    transfer(&mut task).await.unwrap();
    assert_eq!(bench.fake.world().ended, [("w-1".to_owned(), false)]);
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_OK]));
    ask(&mut task, Order::Restart).await.unwrap();
    bench.fake.world().update = "w-3".to_owned();
    assert_eq!(transfer(&mut task).await, Err(Nrc::ConditionsNotCorrect), "it waits for its restart");
    assert_eq!(bench.stored().unwrap().update, "w-2");
}

#[tokio::test(start_paused = true)]
async fn the_status_says_what_a_tester_must_know() {
    let bench = Bench::new();
    let mut task = bench.boot();
    task.tell();
    assert_eq!(*task.status.borrow(), "update=;version=;wish=none;phase=;error=");
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    task.look().await;
    task.tell();
    assert_eq!(*task.status.borrow(), "update=w-1;version=2.0;wish=try;phase=staged;error=");
}
