//! The power is cut before, inside and after every durable write of an installation: record, both copies of the boot environment,
//! and the slot's bytes share one count.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use pitstop_boot_env::{BlockCopy, GrubFiles, boot_decision};
use pitstop_slots::Why;
use pitstop_store::cut::Disk;
use pitstop_types::{Digest, ReleaseCounter, SoftwareVersion};

use super::*;
use crate::install::{Step, Watcher, install};
use crate::ports::SlotDevice;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Before,
    Torn,
    After,
}

#[derive(Default)]
struct Power {
    writes: u32,
    at: Option<(u32, Cut)>,
    off: bool,
}

/// What survives a power cut.
#[derive(Clone)]
struct World {
    power: Arc<Mutex<Power>>,
    disk: Disk,
    copies: [Arc<Mutex<Vec<u8>>>; 2],
    slots: [Arc<Mutex<Vec<u8>>>; 2],
}

impl World {
    fn new() -> Self {
        let bytes = |byte: u8, length| Arc::new(Mutex::new(vec![byte; length]));
        let world = Self {
            power: Arc::default(),
            disk: Disk::new(),
            copies: [bytes(0, 0), bytes(0, 0)],
            slots: [bytes(b'A', 320_000), bytes(0xFF, 320_000)],
        };
        world.env().mend(&name("A")).unwrap();
        world.power.lock().unwrap().writes = 0;
        world
    }

    fn env(&self) -> GrubFiles<Copy> {
        let copy = |n: usize| Copy { bytes: self.copies[n].clone(), world: self.clone() };
        GrubFiles::new(copy(0), copy(1), pair())
    }

    /// One durable write: `act` is told whether it is torn.
    fn write(&self, act: impl FnOnce(bool)) -> io::Result<()> {
        let mut power = self.power.lock().unwrap();
        if power.off {
            return Err(io::Error::other("no power"));
        }
        let cut = power.at.filter(|(n, _)| *n == power.writes).map(|(_, cut)| cut);
        power.writes += 1;
        if cut != Some(Cut::Before) {
            act(cut == Some(Cut::Torn));
        }
        power.off = cut.is_some();
        if power.off { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn on(&self) {
        *self.power.lock().unwrap() = Power::default();
    }
}

struct Copy {
    bytes: Arc<Mutex<Vec<u8>>>,
    world: World,
}

impl BlockCopy for Copy {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.lock().unwrap().clone())
    }
    fn overwrite(&self, block: &[u8; 1024]) -> io::Result<()> {
        self.world.write(|torn| *self.bytes.lock().unwrap() = if torn { vec![7; 1024] } else { block.to_vec() })
    }
}

struct Slot(Arc<Mutex<Vec<u8>>>, World);

impl SlotDevice for Slot {
    fn capacity(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn read_at(&mut self, into: &mut [u8], offset: u64) -> io::Result<()> {
        into.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..into.len()]);
        Ok(())
    }
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.write(|torn| {
            let length = if torn { bytes.len() / 2 } else { bytes.len() };
            self.0.lock().unwrap()[offset as usize..][..length].copy_from_slice(&bytes[..length]);
        })
    }
    fn sync(&mut self) -> io::Result<()> {
        self.1.write(|_| {})
    }
}

/// The store's disk, counted by the same power.
struct Store(World);

impl Storage for Store {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.disk.storage().read(name)
    }
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        // Atomic: torn is lost.
        let kept = |torn| if torn { Ok(()) } else { self.0.disk.storage().replace(name, bytes) };
        self.0.write(|torn| kept(torn).unwrap()).map_err(|_| StoreError::PowerCut)
    }
    fn append(&self, _: &str, _: &[u8]) -> Result<(), StoreError> {
        unreachable!("the slots are one document")
    }
    fn remove(&self, _: &str) -> Result<(), StoreError> {
        unreachable!("the slots are one document")
    }
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.0.disk.storage().list(prefix)
    }
}

struct Go;
impl Watcher for Go {
    fn step(&mut self, _: Step, _: u64, _: u64) -> bool {
        true
    }
}

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

fn pair() -> SlotPair {
    SlotPair::new(name("A"), name("B")).unwrap()
}

fn update() -> UpdateId {
    UpdateId::new("u1").unwrap()
}

static NEW: LazyLock<Vec<u8>> = LazyLock::new(|| (0..300_000_u32).map(|n| (n % 241) as u8).collect());

static IMAGE: LazyLock<SlotImage> = LazyLock::new(|| SlotImage {
    version: SoftwareVersion::new("2").unwrap(),
    counter: ReleaseCounter(2),
    length: NEW.len() as u64,
    sha256: Digest::of(&NEW),
});

fn start(world: &World, booted: &SlotName) -> Result<Core, CoreError> {
    Core::start(Arc::new(Store(world.clone())), Box::new(world.env()), pair(), booted.clone())
}

fn stage(world: &World, core: &mut Core) -> Result<(), String> {
    let text = |error: CoreError| error.to_string();
    let Staging::Write(slot) = core.stage(&update(), &IMAGE).map_err(text)? else { return Ok(()) };
    assert_eq!(slot, name("B"));
    let mut device = Slot(world.slots[1].clone(), world.clone());
    let outcome = install(&mut NEW.as_slice(), &IMAGE, &mut device, &mut Go);
    if world.power.lock().unwrap().off {
        return Err("no power".into());
    }
    core.written(&update(), &IMAGE, outcome.is_ok()).map_err(text)?;
    outcome.map(drop).map_err(|error| error.to_string())
}

/// One life of the TCU: from the boot script to the end, to a restart that was asked for, or to the cut.
fn life(world: &World, undo: bool) -> Result<Phase, String> {
    let decision = boot_decision(&world.env(), &pair());
    assert_ne!(decision.why, Why::NoneGood, "there is always a slot that was good");
    if decision.slot == name("B") {
        assert_eq!(world.slots[1].lock().unwrap()[..NEW.len()], *NEW, "a half-written slot runs");
    }
    let mut core = start(world, &decision.slot).map_err(|error| error.to_string())?;
    let text = |error: CoreError| error.to_string();
    loop {
        let phase = core.record.installation.as_ref().map(|now| now.phase);
        match phase {
            None | Some(Phase::Marking | Phase::Writing | Phase::Failed) => stage(world, &mut core)?,
            Some(Phase::Staged) => core.activate(&update()).map_err(text)?,
            Some(Phase::Trial) => core.mark_good(&update()).map_err(text)?,
            Some(Phase::Bootable) if undo => drop(core.roll_back(&update()).map_err(text)?),
            Some(Phase::Bootable) => core.commit(&update()).map_err(text)?,
            // A cut took the try: the same update is staged again, which finds the image there.
            Some(Phase::FellBack) if !undo => stage(world, &mut core)?,
            Some(end) if end.is_end() && !core.reboot_due() => return Ok(end),
            Some(_) if core.reboot_due() => return Err("restart".into()),
            Some(phase) => return Err(format!("{phase} waits for a start")),
        }
    }
}

fn run(world: &World, undo: bool) -> Phase {
    for _ in 0..20 {
        match life(world, undo) {
            Ok(end) => return end,
            Err(_) if world.power.lock().unwrap().off => world.on(),
            Err(_) => {}
        }
    }
    panic!("no end after 20 lives");
}

fn cut_at_every_write(undo: bool) {
    let whole = World::new();
    run(&whole, undo);
    let writes = whole.power.lock().unwrap().writes;
    assert!(writes > 22, "{writes}");
    for at in 0..writes {
        for cut in [Cut::Before, Cut::Torn, Cut::After] {
            let world = World::new();
            world.power.lock().unwrap().at = Some((at, cut));
            let end = run(&world, undo);
            let booted = boot_decision(&world.env(), &pair()).slot;
            if undo {
                assert!(matches!(end, Phase::RolledBack | Phase::FellBack), "{end} after {cut:?} at write {at}");
                assert_eq!(booted, name("A"));
            } else {
                assert_eq!(end, Phase::Committed, "{cut:?} at write {at}");
                assert_eq!(booted, name("B"));
            }
            assert_eq!(*world.slots[0].lock().unwrap(), vec![b'A'; 320_000], "the old slot was written");
        }
    }
}

#[test]
fn a_cut_at_every_write_of_an_update_ends_in_the_new_slot() {
    cut_at_every_write(false);
}

#[test]
fn a_cut_at_every_write_of_an_undone_update_ends_in_the_old_slot() {
    cut_at_every_write(true);
}

#[test]
fn a_damaged_record_is_put_aside_and_the_unit_can_be_updated() {
    let world = World::new();
    drop(start(&world, &name("A")).unwrap());
    world.disk.storage().replace("slots", b"damaged").unwrap();
    let mut core = start(&world, &name("A")).unwrap();
    assert_eq!(world.disk.storage().read("slots.damaged").unwrap().unwrap(), b"damaged");
    stage(&world, &mut core).unwrap();
    core.activate(&update()).unwrap();
    assert_eq!(boot_decision(&world.env(), &pair()).slot, name("B"));
}

#[test]
fn a_damaged_record_does_not_vouch_for_a_slot_on_trial() {
    let world = World::new();
    let booted = on_trial(&world).booted().clone();
    assert_eq!(booted, name("B"));
    world.disk.storage().replace("slots", b"damaged").unwrap();
    let core = start(&world, &booted).unwrap();
    assert_eq!(core.record, SlotRecord::new(name("A")));
    assert_eq!(boot_decision(&world.env(), &pair()).slot, name("A"), "nobody vouched for B");
}

/// B's first start after it was written.
fn on_trial(world: &World) -> Core {
    let mut core = start(world, &name("A")).unwrap();
    stage(world, &mut core).unwrap();
    core.activate(&update()).unwrap();
    start(world, &boot_decision(&world.env(), &pair()).slot).unwrap()
}

/// Runs B for good, as after an update.
fn committed() -> World {
    let world = World::new();
    let mut core = on_trial(&world);
    core.mark_good(&update()).unwrap();
    core.commit(&update()).unwrap();
    world
}

#[test]
fn a_lost_boot_environment_is_made_for_the_committed_slot_and_not_for_the_first() {
    let world = committed();
    for copy in &world.copies {
        copy.lock().unwrap().clear();
    }
    // What the boot loader takes without one.
    drop(start(&world, &name("A")).unwrap());
    assert_eq!(boot_decision(&world.env(), &pair()).slot, name("B"));
}

#[test]
fn a_committed_slot_that_does_not_start_any_more_is_mended_by_the_next_update() {
    let world = committed();
    let mut core = start(&world, &name("A")).unwrap();
    let next = UpdateId::new("u2").unwrap();
    let image = SlotImage { version: SoftwareVersion::new("3.0").unwrap(), ..IMAGE.clone() };
    assert_eq!(core.stage(&next, &image).unwrap(), Staging::Write(name("B")));
    let env = world.env().load().unwrap();
    assert_eq!(
        (env.health(&name("A")), env.health(&name("B"))),
        (Health::Good, Health::Bad),
        "A stays while B is written"
    );
    core.written(&next, &image, true).unwrap();
    core.activate(&next).unwrap();
    let mut core = start(&world, &boot_decision(&world.env(), &pair()).slot).unwrap();
    assert_eq!(core.booted(), &name("B"));
    core.mark_good(&next).unwrap();
    core.commit(&next).unwrap();
}

#[test]
fn a_slot_that_was_left_is_not_adopted_before_the_restart() {
    let world = World::new();
    let mut core = on_trial(&world);
    core.mark_good(&update()).unwrap();
    assert!(core.roll_back(&update()).unwrap() && core.goes_back());
    let refused = core.stage(&UpdateId::new("u2").unwrap(), &IMAGE);
    assert!(matches!(refused, Err(CoreError::Phase(PhaseError::Unsettled { .. }))), "{refused:?}");
}

#[test]
fn without_a_boot_environment_the_service_answers_and_activates_nothing() {
    let world = World::new();
    let mut core = start(&world, &name("A")).unwrap();
    stage(&world, &mut core).unwrap();
    for copy in &world.copies {
        copy.lock().unwrap().clear();
    }
    assert!(matches!(core.activate(&update()), Err(CoreError::Env(_))));
    assert_eq!(core.view().state(&name("B"), true), "trying", "the record is ahead, and the next call makes it so");
    world.env().mend(&name("A")).unwrap();
    core.activate(&update()).unwrap();
    assert!(core.view().is_primary(&name("B")));
}

#[test]
fn another_update_waits_until_the_lease_is_given_back_or_over() {
    let (world, other, now) = (World::new(), UpdateId::new("u2").unwrap(), Instant::now());
    let mut core = start(&world, &name("A")).unwrap();
    let hour = Duration::from_secs(3600);
    core.lease("workshop", &update(), hour, now).unwrap();
    core.take_lease(&update(), hour, now).unwrap();
    assert!(matches!(core.take_lease(&other, hour, now), Err(CoreError::Leased { owner, .. }) if owner == "workshop"));
    core.release(&other);
    assert!(core.take_lease(&other, hour, now).is_err(), "only its own is given back");
    core.take_lease(&other, hour, now + hour).unwrap();
    core.release(&other);
    core.take_lease(&update(), hour, now).unwrap();
}
