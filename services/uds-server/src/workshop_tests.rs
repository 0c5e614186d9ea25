//! The task against slots that keep their own record, as `self-update` does, and a machine that loses its power.

use std::io::{PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use pitstop_dbus::Result;
use pitstop_slots::{BootVars, Effect, GrubVars, SlotImage, SlotPair, SlotRecord};
use pitstop_store::cut::{Cut, Disk};
use pitstop_types::{Digest, ReleaseCounter, SlotName, SoftwareVersion, UpdateId};

use super::*;

const PACKAGE: &[u8] = b"metadata and bundle";
const VERSION: &str = "2.0";

/// What outlives a power cut, and what is true of the vehicle.
struct World {
    slots: SlotRecord,
    vars: BootVars,
    booted: SlotName,
    restart: bool,
    /// What the validator was told, by update.
    ended: Vec<(String, bool)>,
    well: bool,
    safe: bool,
    busy: bool,
    /// The slot reads back wrong.
    rotten: bool,
    stages: Vec<u32>,
    /// Name under which the next package is admitted.
    update: String,
    calls: u64,
    cut: Option<Cut>,
}

#[derive(Clone)]
struct Fake {
    world: Arc<Mutex<World>>,
    disk: Disk,
}

fn slot(name: &str) -> SlotName {
    SlotName::new(name).unwrap()
}

fn pair() -> SlotPair {
    SlotPair::new(slot("A"), slot("B")).unwrap()
}

fn image() -> SlotImage {
    SlotImage {
        version: SoftwareVersion::new(VERSION).unwrap(),
        counter: ReleaseCounter(2),
        length: 1,
        sha256: Digest::of(b"2"),
    }
}

impl World {
    fn new() -> Self {
        Self {
            slots: SlotRecord::new(slot("A")),
            vars: BootVars::Grub(GrubVars::fresh(&slot("A"), &pair())),
            booted: slot("A"),
            restart: false,
            ended: vec![],
            well: true,
            safe: true,
            busy: false,
            rotten: false,
            stages: vec![],
            update: "w-1".to_owned(),
            calls: 0,
            cut: None,
        }
    }

    /// As `self-update` does after every verb.
    fn settle(&mut self) {
        while let Some(effect) = self.slots.effect() {
            match &effect {
                Effect::Write(..) if self.rotten => return self.slots.write_failed(),
                Effect::Write(..) => {}
                Effect::MarkBad(slot) => self.vars.mark_bad(slot).unwrap(),
                Effect::TryOnce(slot) => self.vars.try_once(slot).unwrap(),
                Effect::MarkGood(slot) => self.vars.mark_good(slot).unwrap(),
                Effect::SettleOn(slot) => self.vars.settle_on(slot).unwrap(),
            }
            self.slots.done();
        }
    }

    /// The boot loader and the start of `self-update`.
    fn boot(&mut self) {
        self.restart = false;
        self.booted = self.vars.boot().slot;
        let started = self.slots.started(&self.booted.clone(), &self.vars);
        self.settle();
        if let Some(slot) = started.mark_good {
            self.vars.mark_good(&slot).unwrap();
        }
    }

    fn verb(
        &mut self,
        verb: impl FnOnce(&mut SlotRecord) -> std::result::Result<bool, pitstop_slots::PhaseError>,
    ) -> Result<()> {
        verb(&mut self.slots).map_err(|error| OtaError::WrongPhase(error.to_string()))?;
        self.settle();
        Ok(())
    }
}

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// One call to another service: it may be the one at which the power goes.
    fn call<T>(&self, act: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let mut world = self.world();
        let off = || OtaError::NotReady("the power is off".to_owned());
        if self.disk.is_off() {
            return Err(off());
        }
        let number = world.calls;
        world.calls += 1;
        if world.cut == Some(Cut::Before(number)) {
            self.disk.power_off();
            return Err(off());
        }
        let result = act(&mut world);
        if world.cut == Some(Cut::After(number)) {
            self.disk.power_off();
            return Err(off());
        }
        result
    }
}

fn id(update: &str) -> UpdateId {
    UpdateId::new(update).unwrap()
}

impl Peers for Fake {
    type Reception = Option<PipeReader>;

    async fn receive(&self, length: u64) -> Result<(OwnedFd, Self::Reception)> {
        let (reader, writer) = std::io::pipe().unwrap();
        // A length of zero stands for a package whose metadata is refused at once.
        let reader = (length > 0).then_some(reader);
        self.call(|_| Ok((OwnedFd::from(writer), reader)))
    }
    async fn received(&self, reception: Self::Reception) -> Result<(String, String)> {
        let Some(mut reader) = reception else { return Err(OtaError::UnmetThreshold("offline targets".into())) };
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        self.call(|world| match bytes == PACKAGE {
            true => Ok((world.update.clone(), VERSION.to_owned())),
            false => Err(OtaError::LengthMismatch("it ended early".to_owned())),
        })
    }
    async fn end(&self, update: &str, committed: bool) -> Result<()> {
        self.call(|world| {
            if committed && world.booted != slot("B") {
                return Err(OtaError::WrongPhase("other software runs".to_owned()));
            }
            world.ended.push((update.to_owned(), committed));
            Ok(())
        })
    }
    async fn check(&self) -> Result<()> {
        self.call(|world| if world.busy { Err(OtaError::Busy("u-1".into())) } else { Ok(()) })
    }
    async fn view(&self) -> Result<SlotView> {
        self.call(|world| {
            let found = world.slots.installation.as_ref().filter(|now| now.update.is_workshop());
            let view = |now: &pitstop_slots::Installation| SlotView {
                update: now.update.to_string(),
                phase: now.phase.to_string(),
                version: now.image.version.to_string(),
            };
            Ok(found.map(view).unwrap_or_default())
        })
    }
    async fn stage(&self, update: &str, attempt: u32) -> Result<()> {
        self.call(|world| {
            // The result of a number is kept.
            if world.stages.contains(&attempt) && !world.rotten {
                return Ok(());
            }
            world.stages.push(attempt);
            let booted = world.booted.clone();
            world.verb(|slots| slots.stage(id(update), slot("B"), image(), &booted))?;
            match world.rotten {
                true => Err(OtaError::SlotFailed("slot B reads back differently".to_owned())),
                false => Ok(()),
            }
        })
    }
    async fn activate(&self, update: &str) -> Result<()> {
        self.call(|world| world.verb(|slots| slots.activate(&id(update))))
    }
    async fn reboot(&self, _: &str) -> Result<()> {
        self.call(|world| {
            if !world.slots.reboot_due(&world.booted) {
                return Err(OtaError::WrongPhase("no restart is due".to_owned()));
            }
            if !world.safe {
                return Err(OtaError::NotSafe("Vehicle.Speed is 50".to_owned()));
            }
            world.restart = true;
            Ok(())
        })
    }
    async fn mark_good(&self, update: &str) -> Result<()> {
        self.call(|world| world.verb(|slots| slots.mark_good(&id(update))))
    }
    async fn commit(&self, update: &str) -> Result<()> {
        self.call(|world| world.verb(|slots| slots.commit(&id(update))))
    }
    async fn roll_back(&self, update: &str) -> Result<bool> {
        self.call(|world| {
            world.verb(|slots| slots.roll_back(&id(update)))?;
            Ok(world.slots.reboot_due(&world.booted))
        })
    }
    async fn health(&self, _: &str) -> std::result::Result<(), String> {
        if self.world().well { Ok(()) } else { Err("Validator does not answer".to_owned()) }
    }
}

struct Bench {
    fake: Fake,
}

impl Bench {
    fn new() -> Self {
        Self { fake: Fake { world: Arc::new(Mutex::new(World::new())), disk: Disk::new() } }
    }

    /// The service's start; the machine runs on.
    fn start(&self) -> Workshop<Fake> {
        let settings = WorkshopSettings {
            block: BlockLength(4096),
            trial: Duration::from_secs(20),
            health_limit: Duration::from_secs(90),
        };
        let status = watch::Sender::new(String::new());
        Workshop::new(settings, self.fake.clone(), Arc::new(self.fake.disk.storage()), status).unwrap()
    }

    /// The machine's start. A cut that is still to come stays planned.
    fn boot(&self) -> Workshop<Fake> {
        let mut world = self.fake.world();
        if self.fake.disk.is_off() {
            self.fake.disk.power_on();
            world.cut = None;
        }
        world.boot();
        drop(world);
        self.start()
    }

    fn stored(&self) -> Option<Record> {
        Document::new(Arc::new(self.fake.disk.storage()) as Arc<dyn Storage>, "workshop", FORMAT).load().unwrap()
    }

    fn phase(&self) -> String {
        self.fake.world().slots.installation.as_ref().map(|now| now.phase.to_string()).unwrap_or_default()
    }
}

async fn ask(task: &mut Workshop<Fake>, order: Order) -> std::result::Result<Vec<u8>, Nrc> {
    match task.obey(order).await {
        Some(Done::Opened(result)) => result.map(|_| Vec::new()),
        Some(Done::Other(result)) => result,
        None => Ok(Vec::new()),
    }
}

async fn transfer(task: &mut Workshop<Fake>) -> std::result::Result<Vec<u8>, Nrc> {
    ask(task, Order::Open(PACKAGE.len() as u64)).await?;
    for block in PACKAGE.chunks(5) {
        ask(task, Order::Block(block.to_vec())).await?;
    }
    ask(task, Order::Close).await
}

/// Until the update is over, the machine wants a restart, or the power is gone.
async fn look(bench: &Bench, task: &mut Workshop<Fake>) {
    for _ in 0..200 {
        let over = task.record.as_ref().is_none_or(Record::is_over);
        if over || bench.fake.world().restart || bench.fake.disk.is_off() {
            return;
        }
        let pause = task.look().await;
        tokio::time::advance(pause).await;
    }
}

/// A tester that does whatever is left to do.
async fn workday(bench: &Bench, task: &mut Workshop<Fake>) {
    for _ in 0..6 {
        let phase = bench.phase();
        let installed = matches!(phase.as_str(), "activated" | "trial" | "bootable" | "committing" | "committed");
        if !installed {
            if task.record.as_ref().is_none_or(Record::is_over) && phase != "committed" {
                let _ = transfer(task).await;
                // As the task does between two orders.
                task.look().await;
            }
            let _ = ask(task, Order::Verify).await;
            task.look().await;
        }
        if matches!(bench.phase().as_str(), "staged" | "activating" | "activated") {
            let _ = ask(task, Order::Restart).await;
        }
        look(bench, task).await;
        if bench.fake.disk.is_off() {
            return;
        }
        if bench.fake.world().restart {
            *task = bench.boot();
        }
        if task.record.as_ref().is_some_and(Record::is_over) {
            return;
        }
    }
}

/// One slot runs, it is the one that is good, and record and validator say the same of it.
fn check_end(bench: &Bench, what: &str) -> Wish {
    let record = bench.stored().unwrap_or_else(|| panic!("{what}: no record"));
    let world = bench.fake.world();
    let runs = if record.wish == Wish::Kept { "B" } else { "A" };
    assert!(record.is_over(), "{what}: {record:?}, slots {:?}", world.slots);
    assert_eq!((world.booted.as_str(), world.slots.committed.as_str()), (runs, runs), "{what}: {record:?}");
    assert_eq!(world.vars.primary(), Some(&slot(runs)), "{what}");
    assert_eq!(world.ended.last(), Some(&("w-1".to_owned(), record.wish == Wish::Kept)), "{what}");
    record.wish
}

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
async fn a_slot_that_is_not_well_is_left_when_the_vehicle_stands() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    ask(&mut task, Order::Restart).await.unwrap();
    let mut task = bench.boot();
    (bench.fake.world().well, bench.fake.world().safe) = (false, false);
    for _ in 0..120 {
        let pause = task.look().await;
        tokio::time::advance(pause).await;
    }
    let record = bench.stored().unwrap();
    assert_eq!((record.wish, record.error.as_str()), (Wish::Undo, "Unhealthy: Validator does not answer"));
    task.tell();
    assert!(task.status.borrow().ends_with("wish=undo;phase=rolled-back;error=NotSafe: Vehicle.Speed is 50"));
    assert!(!bench.fake.world().restart, "it drives");
    bench.fake.world().safe = true;
    look(&bench, &mut task).await;
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
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    ask(&mut task, Order::Restart).await.unwrap();
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
    transfer(&mut task).await.unwrap();
    ask(&mut task, Order::Verify).await.unwrap();
    ask(&mut task, Order::Restart).await.unwrap();
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
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::RequestSequenceError));
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
    ask(&mut task, Order::Open(0)).await.unwrap();
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
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::RequestSequenceError));
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
async fn a_slot_that_reads_back_wrong_is_an_answer_and_the_next_attempt_has_a_new_number() {
    let bench = Bench::new();
    let mut task = bench.boot();
    transfer(&mut task).await.unwrap();
    bench.fake.world().rotten = true;
    assert_eq!(ask(&mut task, Order::Verify).await, Ok(vec![STATUS_FAILED]));
    assert!(task.error.starts_with("SlotFailed"));
    assert_eq!(ask(&mut task, Order::Restart).await, Err(Nrc::RequestSequenceError));
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
