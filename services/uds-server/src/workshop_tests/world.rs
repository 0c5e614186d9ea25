//! Slots with their own record, a validator, a machine that loses its power, and a tester that uses them.

use std::io::{PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use pitstop_dbus::Result;
use pitstop_slots::{BootVars, Effect, GrubVars, SlotImage, SlotPair, SlotRecord};
use pitstop_store::cut::{Cut, Disk};
use pitstop_types::{Digest, ReleaseCounter, SlotName, SoftwareVersion, UpdateId};

use super::super::*;

pub(super) const PACKAGE: &[u8] = b"metadata and bundle";
pub(super) const VERSION: &str = "2.0";
/// Length of a package whose metadata is refused at once.
pub(super) const REFUSED: u64 = 1000;

/// What outlives a power cut, and what is true of the vehicle.
pub(super) struct World {
    pub(super) slots: SlotRecord,
    pub(super) vars: BootVars,
    pub(super) booted: SlotName,
    pub(super) restart: bool,
    /// What the validator was told, by update.
    pub(super) ended: Vec<(String, bool)>,
    pub(super) well: bool,
    pub(super) safe: bool,
    /// The vehicle is held for the update.
    pub(super) held: bool,
    /// The vehicle begins to move after an activation.
    pub(super) rolls: bool,
    pub(super) busy: bool,
    /// The slot reads back wrong.
    pub(super) rotten: bool,
    pub(super) stages: Vec<u32>,
    /// Another reader of the pipe that the validator gave out last.
    pub(super) pipe: Option<PipeReader>,
    /// Name under which the next package is admitted.
    pub(super) update: String,
    pub(super) calls: u64,
    pub(super) cut: Option<Cut>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) disk: Disk,
}

pub(super) fn slot(name: &str) -> SlotName {
    SlotName::new(name).unwrap()
}

pub(super) fn pair() -> SlotPair {
    SlotPair::new(slot("A"), slot("B")).unwrap()
}

pub(super) fn image() -> SlotImage {
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
            held: false,
            rolls: false,
            busy: false,
            rotten: false,
            stages: vec![],
            pipe: None,
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
        let over = self.slots.installation.as_ref().is_none_or(|now| now.phase.is_end());
        self.held &= !over || self.slots.reboot_due(&self.booted);
    }

    pub(super) fn verb(
        &mut self,
        verb: impl FnOnce(&mut SlotRecord) -> std::result::Result<bool, pitstop_slots::PhaseError>,
    ) -> Result<()> {
        verb(&mut self.slots).map_err(|error| OtaError::WrongPhase(error.to_string()))?;
        self.settle();
        Ok(())
    }
}

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
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

pub(super) fn id(update: &str) -> UpdateId {
    UpdateId::new(update).unwrap()
}

impl Peers for Fake {
    type Reception = Option<PipeReader>;

    async fn receive(&self, length: u64) -> Result<(OwnedFd, Self::Reception)> {
        let (reader, writer) = std::io::pipe().unwrap();
        let reader = (length != REFUSED).then_some(reader);
        self.call(|world| {
            world.pipe = reader.as_ref().map(|reader| reader.try_clone().unwrap());
            Ok((OwnedFd::from(writer), reader))
        })
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
        self.call(|world| {
            if !world.safe {
                return Err(OtaError::NotSafe("Vehicle.Speed is 50".to_owned()));
            }
            world.verb(|slots| slots.activate(&id(update)))?;
            (world.held, world.safe) = (true, !world.rolls);
            Ok(())
        })
    }
    async fn reboot(&self, update: &str) -> Result<()> {
        self.call(|world| {
            if !world.slots.reboot_due(&world.booted) {
                return Err(OtaError::WrongPhase("no restart is due".to_owned()));
            }
            if !world.safe {
                if world.booted == world.slots.committed {
                    // The activation is taken back, and the results of its staging go.
                    world.verb(|slots| slots.roll_back(&id(update)))?;
                    world.stages.clear();
                }
                world.held = false;
                return Err(OtaError::NotSafe("Vehicle.Speed is 50".to_owned()));
            }
            (world.held, world.restart) = (true, true);
            Ok(())
        })
    }
    async fn mark_good(&self, update: &str) -> Result<()> {
        self.call(|world| world.verb(|slots| slots.mark_good(&id(update))))
    }
    async fn commit(&self, update: &str) -> Result<()> {
        self.call(|world| {
            world.verb(|slots| slots.commit(&id(update)))?;
            world.held = false;
            Ok(())
        })
    }
    async fn roll_back(&self, update: &str) -> Result<bool> {
        self.call(|world| {
            world.verb(|slots| slots.roll_back(&id(update)))?;
            let due = world.slots.reboot_due(&world.booted);
            world.held &= due;
            Ok(due)
        })
    }
    async fn is_held(&self, _: &str) -> Result<bool> {
        self.call(|world| Ok(world.held))
    }
    async fn health(&self, _: &str) -> std::result::Result<(), String> {
        if self.world().well { Ok(()) } else { Err("Validator does not answer".to_owned()) }
    }
}

pub(super) struct Bench {
    pub(super) fake: Fake,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { fake: Fake { world: Arc::new(Mutex::new(World::new())), disk: Disk::new() } }
    }

    /// The service's start; the machine runs on.
    pub(super) fn start(&self) -> Workshop<Fake> {
        let settings = WorkshopSettings {
            block: BlockLength(4096),
            trial: Duration::from_secs(20),
            health_limit: Duration::from_secs(90),
        };
        let status = watch::Sender::new(String::new());
        Workshop::new(settings, self.fake.clone(), Arc::new(self.fake.disk.storage()), status).unwrap()
    }

    /// The machine's start. A cut that is still to come stays planned.
    pub(super) fn boot(&self) -> Workshop<Fake> {
        let mut world = self.fake.world();
        if self.fake.disk.is_off() {
            self.fake.disk.power_on();
            world.cut = None;
        }
        world.boot();
        drop(world);
        self.start()
    }

    pub(super) fn stored(&self) -> Option<Record> {
        Document::new(Arc::new(self.fake.disk.storage()) as Arc<dyn Storage>, "workshop", FORMAT).load().unwrap()
    }

    pub(super) fn phase(&self) -> String {
        self.fake.world().slots.installation.as_ref().map(|now| now.phase.to_string()).unwrap_or_default()
    }
}

pub(super) async fn ask(task: &mut Workshop<Fake>, order: Order) -> std::result::Result<Vec<u8>, Nrc> {
    match task.obey(order).await {
        Some(Done::Opened(result)) => result.map(|_| Vec::new()),
        Some(Done::Other(result)) => result,
        None => Ok(Vec::new()),
    }
}

pub(super) async fn transfer(task: &mut Workshop<Fake>) -> std::result::Result<Vec<u8>, Nrc> {
    ask(task, Order::Open(PACKAGE.len() as u64)).await?;
    for block in PACKAGE.chunks(5) {
        ask(task, Order::Block(block.to_vec())).await?;
    }
    ask(task, Order::Close).await
}

/// A workshop's update as far as the restart into the new slot.
pub(super) async fn install(task: &mut Workshop<Fake>) {
    transfer(task).await.unwrap();
    ask(task, Order::Verify).await.unwrap();
    ask(task, Order::Restart).await.unwrap();
}

/// Until the update is over, the machine wants a restart, or the power is gone.
pub(super) async fn look(bench: &Bench, task: &mut Workshop<Fake>) {
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
pub(super) async fn workday(bench: &Bench, task: &mut Workshop<Fake>) {
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
pub(super) fn check_end(bench: &Bench, what: &str) -> Wish {
    let record = bench.stored().unwrap_or_else(|| panic!("{what}: no record"));
    let world = bench.fake.world();
    let runs = if record.wish == Wish::Kept { "B" } else { "A" };
    assert!(record.is_over(), "{what}: {record:?}, slots {:?}", world.slots);
    assert_eq!((world.booted.as_str(), world.slots.committed.as_str()), (runs, runs), "{what}: {record:?}");
    assert_eq!(world.vars.primary(), Some(&slot(runs)), "{what}");
    assert_eq!(world.ended.last(), Some(&("w-1".to_owned(), record.wish == Wish::Kept)), "{what}");
    record.wish
}
