//! The service on a peer-to-peer bus, with a bundle that was really signed, slot files with real ext4 images, and peers that answer
//! what a test wants.

use std::path::Path;
use std::sync::Mutex as StdMutex;

use pitstop_boot_env::{BootEnv, FileCopy, GrubFiles, boot_decision};
use pitstop_bundle_io::build::TcuSoftware;
use pitstop_bundle_io::keys::{Identity, Usage, identity};
use pitstop_bundle_io::{Builder, Signer};
use pitstop_dbus::{Answer, SelfUpdateProxy};
use pitstop_runtime::{operation, testing};
use pitstop_store::FileStorage;
use pitstop_types::{ReleaseCounter, SoftwareVersion};
use zbus::Connection;

use super::*;
use crate::adapters::SlotPaths;
use crate::bus::{SelfUpdate, Workshop};
use crate::core::Core;
use crate::release::tests::ext4;

const SLOT_BYTES: u64 = 1024 * 1024;

/// A TCU's files in a folder, and what the other services say.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) peers: Arc<FakePeers>,
}

pub(crate) struct FakePeers {
    bundle: StdMutex<PathBuf>,
    admitted: StdMutex<AdmittedBundle>,
    pub(crate) safe: StdMutex<(bool, bool)>,
    /// The driver's answers, by update.
    pub(crate) choices: StdMutex<BTreeMap<String, String>>,
    /// Who holds the vehicle.
    pub(crate) held: StdMutex<Vec<String>>,
    /// Vehicle-state is away for this many questions about who holds it.
    pub(crate) away: StdMutex<u32>,
    /// Answers "not ready" this often before it answers.
    starting: StdMutex<u32>,
}

impl Peers for Arc<FakePeers> {
    async fn open_admitted(&self, update: &str) -> Result<(File, AdmittedBundle)> {
        let starting = &mut *self.starting.lock().unwrap();
        if *starting > 0 {
            *starting -= 1;
            return Err(OtaError::NotReady("starting".to_owned()));
        }
        if !matches!(update, "u1" | "w-1") {
            return Err(OtaError::NotAdmitted(update.to_owned()));
        }
        let file = File::open(&*self.bundle.lock().unwrap()).map_err(storage)?;
        Ok((file, self.admitted.lock().unwrap().clone()))
    }
    async fn check_safe(&self) -> Result<(bool, bool, String)> {
        let (standstill, inhibited) = *self.safe.lock().unwrap();
        Ok((standstill, inhibited, "Vehicle.Speed is 50".to_owned()))
    }
    async fn request_inhibit(&self, update: &str) -> Result<()> {
        let held = &mut *self.held.lock().unwrap();
        if !held.iter().any(|owner| owner == update) {
            held.push(update.to_owned());
        }
        Ok(())
    }
    async fn release_inhibit(&self, update: &str) -> Result<()> {
        self.is_there()?;
        self.held.lock().unwrap().retain(|owner| owner != update);
        Ok(())
    }
    async fn inhibit_owners(&self) -> Result<Vec<String>> {
        self.is_there()?;
        Ok(self.held.lock().unwrap().clone())
    }
    async fn answer(&self, update: &str) -> Result<Answer> {
        let choice = self.choices.lock().unwrap().get(update).cloned().unwrap_or_default();
        Ok(Answer { choice, ..Answer::default() })
    }
}

impl FakePeers {
    fn is_there(&self) -> Result<()> {
        let away = &mut *self.away.lock().unwrap();
        if *away == 0 {
            return Ok(());
        }
        *away -= 1;
        Err(OtaError::NotReady("starting".to_owned()))
    }

    /// From now on the bundle is not the one that was admitted.
    pub(crate) fn refuse(&self) {
        self.admitted.lock().unwrap().counter = 9;
    }

    pub(crate) fn answers(&self, update: &str, choice: &str) {
        self.choices.lock().unwrap().insert(update.to_owned(), choice.to_owned());
    }
}

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

pub(crate) fn pair() -> SlotPair {
    SlotPair::new(name("A"), name("B")).unwrap()
}

fn authority() -> Identity {
    identity("bundle authority", Usage::Authority, None, wall_clock().unwrap() - 60, 10).unwrap()
}

fn signed(folder: &Path, hardware: &str, authority: &Identity) -> PathBuf {
    let signer = identity("signer", Usage::BundleSigner, Some(authority), wall_clock().unwrap() - 60, 5).unwrap();
    let software = TcuSoftware {
        hardware: HardwareId::new(hardware).unwrap(),
        version: SoftwareVersion::new("2.0").unwrap(),
        counter: ReleaseCounter(2),
        rootfs: ext4(folder, "2.0", 2),
    };
    let signer = Signer { certificate: signer.certificate, key: signer.key, intermediates: vec![] };
    let path = folder.join("tcu.raucb");
    Builder::tcu(&software).unwrap().write(&path, &signer).unwrap();
    path
}

/// What `validator` says of the bundle it admitted.
fn description(path: &Path, keyring: &Path) -> AdmittedBundle {
    let keyring = Keyring::from_pem(&std::fs::read(keyring).unwrap()).unwrap();
    let bundle = BundleReader::open(File::open(path).unwrap(), &keyring, wall_clock().unwrap()).unwrap();
    let (info, meta) = (bundle.info(), bundle.meta().unwrap());
    AdmittedBundle {
        verity_root: info.manifest.bundle.verity_hash.unwrap().to_string(),
        hardware: meta.hardware.to_string(),
        counter: meta.release_counter.0,
        manifest_hash: info.manifest_hash.to_string(),
        version: meta.version.to_string(),
        length: std::fs::metadata(path).unwrap().len(),
        admitted_at: wall_clock().unwrap(),
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_hardware("tcu-a1")
    }

    fn with_hardware(hardware: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        std::fs::write(folder.path().join("keyring.pem"), authority.certificate_pem().unwrap()).unwrap();
        let bundle = signed(folder.path(), hardware, &authority);
        let admitted = description(&bundle, &folder.path().join("keyring.pem"));
        let slot = |file: &str| File::options().create(true).append(true).open(folder.path().join(file)).unwrap();
        std::fs::copy(ext4(folder.path(), "1.0", 1), folder.path().join("a.img")).unwrap();
        slot("a.img").set_len(SLOT_BYTES).unwrap();
        slot("b.img").set_len(SLOT_BYTES).unwrap();
        let peers = FakePeers {
            bundle: StdMutex::new(bundle),
            admitted: StdMutex::new(admitted),
            safe: StdMutex::new((true, true)),
            choices: StdMutex::new(BTreeMap::from([("u1".to_owned(), "now".to_owned())])),
            held: StdMutex::default(),
            away: StdMutex::default(),
            starting: StdMutex::new(0),
        };
        Self { folder, peers: Arc::new(peers) }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn env(&self) -> GrubFiles {
        GrubFiles::new(FileCopy::new(self.path("grubenv")), FileCopy::new(self.path("grubenv.copy")), pair())
    }

    fn paths(&self) -> BTreeMap<SlotName, PathBuf> {
        BTreeMap::from([(name("A"), self.path("a.img")), (name("B"), self.path("b.img"))])
    }

    /// The boot script and then the service: one start of the TCU.
    pub(crate) async fn boot(&self) -> (SelfUpdateProxy<'static>, Connection, Connection) {
        self.boot_with(Arc::new(SlotPaths(self.paths()))).await
    }

    async fn boot_with(&self, devices: Arc<dyn SlotDevices>) -> (SelfUpdateProxy<'static>, Connection, Connection) {
        let booted = boot_decision(&self.env(), &pair()).slot;
        let (server, client) = testing::pair().await;
        let storage = Arc::new(FileStorage::open(self.path("state")).unwrap());
        let mut core = Core::start(storage.clone(), Box::new(self.env()), pair(), booted.clone()).unwrap();
        core.resume_lease(Duration::from_secs(60), Instant::now());
        let service = Service {
            core: CoreHandle::spawn(core),
            peers: Arc::clone(&self.peers),
            slots: pair(),
            booted,
            devices,
            paths: self.paths(),
            operations: Operations::new(&server, "SelfUpdate", storage).await.unwrap(),
            keyring: self.path("keyring.pem"),
            hardware: HardwareId::new("tcu-a1").unwrap(),
            lease: Duration::from_secs(60),
            reboot_command: vec!["touch".into(), self.path("rebooted").display().to_string()],
            reason: self.path("fall-back"),
            reboot_timeout: Duration::from_secs(20),
            writer: Arc::default(),
            holds: Holds::default(),
        };
        let path = pitstop_dbus::object_path("SelfUpdate");
        let service = Arc::new(service);
        // What can be let go at once is, before a test looks.
        let _ = service.release_left().await;
        let holds = Arc::clone(&service);
        tokio::spawn(async move { holds.look_after_holds().await });
        server.object_server().at(path.clone(), SelfUpdate(Arc::clone(&service))).await.unwrap();
        server.object_server().at(path, Workshop(service)).await.unwrap();
        let proxy = SelfUpdateProxy::builder(&client).destination("io.pitstop.Test").build().await.unwrap();
        (proxy, server, client)
    }
}

pub(crate) async fn stage(
    proxy: &SelfUpdateProxy<'_>,
    client: &Connection,
    expected: &str,
    attempt: u32,
) -> std::result::Result<operation::Data, OtaError> {
    let path = proxy.stage("u1", expected, attempt).await?;
    operation::wait(client, "SelfUpdate", &path, |_| {}).await
}

pub(crate) async fn slots(proxy: &SelfUpdateProxy<'_>) -> Vec<String> {
    let line = |s: SlotStatus| {
        let mark = |set: bool, text: &'static str| if set { text } else { "" };
        format!("{} {} {}{}{}", s.name, s.state, s.version, mark(s.booted, " booted"), mark(s.primary, " primary"))
    };
    proxy.get_slots().await.unwrap().into_iter().map(line).collect()
}

#[tokio::test]
async fn an_update_goes_through_both_slots_and_two_starts() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    assert_eq!(slots(&proxy).await, ["A good 1.0 booted primary", "B empty "]);
    let result = stage(&proxy, &client, "1.0", 1).await.unwrap();
    assert_eq!(String::try_from(result["outcome"].clone()).unwrap(), "written");
    assert_eq!(slots(&proxy).await, ["A good 1.0 booted primary", "B bad 2.0"]);
    assert!(matches!(proxy.reboot("u1").await, Err(OtaError::WrongPhase(_))));
    proxy.activate("u1").await.unwrap();
    proxy.activate("u1").await.unwrap();
    assert_eq!(slots(&proxy).await, ["A good 1.0 booted", "B trying 2.0 primary"]);
    proxy.reboot("u1").await.unwrap();
    assert!(bench.path("rebooted").exists());

    let (proxy, _server, _client) = bench.boot().await;
    assert_eq!(slots(&proxy).await, ["A good 1.0 primary", "B trying 2.0 booted"]);
    assert!(matches!(proxy.mark_other_bad("u1").await, Err(OtaError::WrongPhase(_))));
    assert!(matches!(proxy.commit("u1").await, Err(OtaError::WrongPhase(_))));
    proxy.mark_good("u1").await.unwrap();
    proxy.commit("u1").await.unwrap();
    proxy.commit("u1").await.unwrap();
    assert_eq!(slots(&proxy).await, ["A bad 1.0", "B good 2.0 booted primary"]);
    assert_eq!(proxy.get_release("B").await.unwrap().counter, 2);
    assert_eq!(proxy.booted_slot().await.unwrap(), "B");
}

#[tokio::test]
async fn a_roll_back_after_the_trial_needs_a_restart_and_leaves_the_old_slot() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    proxy.activate("u1").await.unwrap();
    let (proxy, _server, _client) = bench.boot().await;
    proxy.mark_good("u1").await.unwrap();
    assert!(proxy.roll_back("u1").await.unwrap());
    // Nobody has to agree to that, and no clock to be right.
    bench.peers.answers("u1", "");
    *bench.peers.safe.lock().unwrap() = (false, true);
    assert!(matches!(proxy.reboot("u1").await, Err(OtaError::NotSafe(_))));
    *bench.peers.safe.lock().unwrap() = (true, true);
    proxy.reboot("u1").await.unwrap();
    let (proxy, _server, _client) = bench.boot().await;
    assert_eq!(slots(&proxy).await, ["A good 1.0 booted primary", "B bad 2.0"]);
    assert!(!proxy.roll_back("u1").await.unwrap());
    assert!(!proxy.roll_back("another").await.unwrap());
}

#[tokio::test]
async fn a_fall_back_is_seen_at_the_next_start() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    proxy.activate("u1").await.unwrap();
    boot_decision(&bench.env(), &pair()); // the new slot starts and hangs
    let (proxy, _server, client) = bench.boot().await;
    assert_eq!(slots(&proxy).await, ["A good 1.0 booted primary", "B bad 2.0"]);
    proxy.mark_other_bad("u1").await.unwrap();
    assert!(matches!(proxy.activate("u1").await, Err(OtaError::WrongPhase(_))));
    // The image is still there and right; a second attempt only looks.
    let again = stage(&proxy, &client, "1.0", 2).await.unwrap();
    assert_eq!(String::try_from(again["outcome"].clone()).unwrap(), "already-so");
}

#[tokio::test]
async fn the_same_request_is_the_same_operation_and_another_update_waits() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    let path = proxy.stage("u1", "1.0", 1).await.unwrap();
    assert_eq!(proxy.stage("u1", "1.0", 1).await.unwrap(), path);
    assert!(matches!(proxy.stage("u2", "1.0", 1).await, Err(OtaError::Busy(_))));
    operation::wait(&client, "SelfUpdate", &path, |_| {}).await.unwrap();
    assert!(matches!(proxy.lease("workshop", "u2", 60).await, Err(OtaError::Busy(_))));
    proxy.release_lease("u1").await.unwrap();
    proxy.lease("workshop", "u2", 60).await.unwrap();
    assert!(matches!(proxy.lease("thief", "u2", 60).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.stage("../u", "1.0", 1).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.stage("u2", "1.0", 0).await, Err(OtaError::InvalidArgument(_))));
}

/// What each refusal leaves behind: the running slot untouched, and the next start in it.
async fn refused_with(bench: &Bench, expected: &str, update: &str) -> OtaError {
    let before = std::fs::read(bench.path("a.img")).unwrap();
    let (proxy, _server, client) = bench.boot().await;
    let path = proxy.stage(update, expected, 1).await.unwrap();
    let error = operation::wait(&client, "SelfUpdate", &path, |_| {}).await.unwrap_err();
    assert_eq!(std::fs::read(bench.path("a.img")).unwrap(), before);
    assert!(proxy.activate(update).await.is_err());
    assert!(bench.env().load().unwrap().primary() == Some(&name("A")));
    error
}

#[tokio::test]
async fn a_validator_that_is_still_starting_is_waited_for() {
    let bench = Bench::new();
    *bench.peers.starting.lock().unwrap() = 100;
    let (proxy, _server, client) = bench.boot().await;
    tokio::time::pause();
    stage(&proxy, &client, "1.0", 1).await.unwrap();
}

#[tokio::test]
async fn what_is_not_the_admitted_bundle_for_this_tcu_is_refused_by_name() {
    let bench = Bench::new();
    assert!(matches!(refused_with(&bench, "0.9", "u1").await, OtaError::UnexpectedSoftware(_)));
    assert!(matches!(refused_with(&Bench::new(), "1.0", "unknown").await, OtaError::NotAdmitted(_)));
    assert!(matches!(refused_with(&Bench::with_hardware("tcu-b2"), "1.0", "u1").await, OtaError::BadHardwareId(_)));

    let bench = Bench::new();
    bench.peers.admitted.lock().unwrap().counter = 9;
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::BadBundle(_)));

    let bench = Bench::new();
    std::fs::write(bench.path("keyring.pem"), authority().certificate_pem().unwrap()).unwrap();
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::BadSignature(_)));

    let bench = Bench::new();
    std::fs::write(bench.path("tcu.raucb"), vec![0; 100_000]).unwrap();
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::BadBundle(_)));
}

#[tokio::test]
async fn a_signature_is_judged_as_of_the_admission() {
    let bench = Bench::new();
    // A day before the signer's certificate begins; so is one that has ended since, the other way round.
    bench.peers.admitted.lock().unwrap().admitted_at -= 86_400;
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::BadSignature(_)));
}

#[tokio::test]
async fn after_a_fall_back_the_guards_reason_is_told_and_an_older_one_is_forgotten() {
    let bench = Bench::new();
    let note = |slot: &str| format!(r#"{{"slot":"{slot}","text":"Flasher does not answer"}}"#);
    std::fs::write(bench.path("fall-back"), note("B")).unwrap();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    assert!(!bench.path("fall-back").exists());
    proxy.activate("u1").await.unwrap();
    // Slot B is started, its services do not answer, and its guard restarts the machine.
    assert_eq!(boot_decision(&bench.env(), &pair()).slot.as_str(), "B");
    std::fs::write(bench.path("fall-back"), note("B")).unwrap();
    let (proxy, _server, _client) = bench.boot().await;
    assert_eq!(proxy.booted_slot().await.unwrap(), "A");
    assert_eq!(proxy.fall_back_reason().await.unwrap(), "Flasher does not answer");
    std::fs::write(bench.path("fall-back"), note("A")).unwrap();
    assert_eq!(bench.boot().await.0.fall_back_reason().await.unwrap(), "");
}

#[tokio::test]
async fn a_block_that_changed_after_admission_is_found_while_it_is_read() {
    let bench = Bench::new();
    let path = bench.path("tcu.raucb");
    let mut bytes = std::fs::read(&path).unwrap();
    // In the middle of the compressed image, behind the manifest.
    bytes[50_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = refused_with(&bench, "1.0", "u1").await;
    assert!(matches!(error, OtaError::BadBundle(_)), "{error}");
}

#[tokio::test]
async fn a_slot_that_is_too_small_or_missing_is_named() {
    let bench = Bench::new();
    File::options().write(true).open(bench.path("b.img")).unwrap().set_len(4096).unwrap();
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::OutOfSpace(_)));
    let bench = Bench::new();
    std::fs::remove_file(bench.path("b.img")).unwrap();
    assert!(matches!(refused_with(&bench, "1.0", "u1").await, OtaError::SlotFailed(_)));
    let bench = Bench::new();
    std::fs::remove_file(bench.path("b.img")).unwrap();
    std::fs::hard_link(bench.path("a.img"), bench.path("b.img")).unwrap();
    assert!(
        matches!(refused_with(&bench, "1.0", "u1").await, OtaError::SlotFailed(_)),
        "both names are the running slot"
    );
}

#[tokio::test]
async fn no_restart_while_moving_or_without_the_drivers_answer() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    proxy.activate("u1").await.unwrap();
    for unsafe_state in [(false, true), (true, false)] {
        *bench.peers.safe.lock().unwrap() = unsafe_state;
        assert!(matches!(proxy.reboot("u1").await, Err(OtaError::NotSafe(_))));
    }
    *bench.peers.safe.lock().unwrap() = (true, true);
    for choice in ["", "later", "no"] {
        bench.peers.answers("u1", choice);
        assert!(matches!(proxy.reboot("u1").await, Err(OtaError::NoConsent(_))));
    }
    assert!(!bench.path("rebooted").exists());
    bench.peers.answers("u1", "at");
    proxy.reboot("u1").await.unwrap();
    assert!(bench.path("rebooted").exists());
}

#[tokio::test]
async fn the_drivers_answer_to_another_update_restarts_nothing() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    proxy.activate("u1").await.unwrap();
    bench.peers.answers("u1", "no");
    bench.peers.answers("u2", "now");
    assert!(matches!(proxy.reboot("u2").await, Err(OtaError::WrongPhase(_))));
    assert!(matches!(proxy.reboot("u1").await, Err(OtaError::NoConsent(_))));
    // Nor where going back needs no answer.
    let (proxy, _server, _client) = bench.boot().await;
    assert!(proxy.roll_back("u1").await.unwrap());
    assert!(matches!(proxy.reboot("u2").await, Err(OtaError::WrongPhase(_))));
    assert!(!bench.path("rebooted").exists());
    proxy.reboot("u1").await.unwrap();
    assert!(bench.path("rebooted").exists());
}

#[tokio::test]
async fn the_object_is_as_the_xml_says() {
    let bench = Bench::new();
    let (_proxy, _server, client) = bench.boot().await;
    let served = testing::introspect(&client, &pitstop_dbus::object_path("SelfUpdate")).await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.SelfUpdate", &served), Vec::<String>::new());
}

/// A slot whose writes wait until the test lets them go.
struct Gate {
    paths: SlotPaths,
    arrived: std::sync::mpsc::SyncSender<()>,
    go: Arc<StdMutex<std::sync::mpsc::Receiver<()>>>,
}

struct GatedSlot(Box<dyn crate::ports::SlotDevice>, Gate);

impl SlotDevices for Gate {
    fn open(&self, slot: &SlotName, booted: &SlotName) -> std::io::Result<Box<dyn crate::ports::SlotDevice>> {
        let gate = Gate { paths: SlotPaths(self.paths.0.clone()), arrived: self.arrived.clone(), go: self.go.clone() };
        Ok(Box::new(GatedSlot(self.paths.open(slot, booted)?, gate)))
    }
}

impl crate::ports::SlotDevice for GatedSlot {
    fn capacity(&self) -> std::io::Result<u64> {
        self.0.capacity()
    }
    fn read_at(&mut self, into: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_at(into, offset)
    }
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let _ = self.1.arrived.try_send(());
        let _ = self.1.go.lock().unwrap().recv();
        self.0.write_at(bytes, offset)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.0.sync()
    }
}

#[tokio::test]
async fn status_answers_while_it_writes_and_a_roll_back_stops_the_writer() {
    let bench = Bench::new();
    let (arrived, here) = std::sync::mpsc::sync_channel(1);
    let (let_go, go) = std::sync::mpsc::channel();
    let paths = SlotPaths(bench.paths());
    let (proxy, _server, client) =
        bench.boot_with(Arc::new(Gate { paths, arrived, go: Arc::new(StdMutex::new(go)) })).await;
    let path = proxy.stage("u1", "1.0", 1).await.unwrap();
    tokio::task::spawn_blocking(move || here.recv().unwrap()).await.unwrap();
    assert_eq!(slots(&proxy).await[0], "A good 1.0 booted primary");
    assert!(!proxy.roll_back("u1").await.unwrap());
    drop(let_go);
    let ended = operation::wait(&client, "SelfUpdate", &path, |_| {}).await;
    assert!(matches!(ended, Err(OtaError::Cancelled(_))), "{ended:?}");
    assert!(matches!(proxy.activate("u1").await, Err(OtaError::WrongPhase(_))));
    assert_eq!(bench.env().load().unwrap().primary(), Some(&name("A")));
}

#[tokio::test]
async fn who_started_the_staging_can_cancel_it() {
    let bench = Bench::new();
    *bench.peers.starting.lock().unwrap() = u32::MAX;
    let (proxy, _server, client) = bench.boot().await;
    let path = proxy.stage("u1", "1.0", 1).await.unwrap();
    let operation = pitstop_dbus::OperationProxy::builder(&client).destination("io.pitstop.Test").path(path.clone());
    operation.build().await.unwrap().cancel().await.unwrap();
    let ended = operation::wait(&client, "SelfUpdate", &path, |_| {}).await;
    assert!(matches!(ended, Err(OtaError::Cancelled(_))), "{ended:?}");
}

#[tokio::test]
async fn an_activated_update_keeps_its_lease_over_a_restart_and_a_staged_one_does_not() {
    let bench = Bench::new();
    let (proxy, _server, client) = bench.boot().await;
    stage(&proxy, &client, "1.0", 1).await.unwrap();
    let (proxy, _server, _client) = bench.boot().await;
    proxy.lease("workshop", "u2", 60).await.unwrap();
    proxy.activate("u1").await.unwrap();
    let (proxy, _server, _client) = bench.boot().await;
    assert!(matches!(proxy.lease("workshop", "u2", 60).await, Err(OtaError::Busy(_))));
    proxy.mark_good("u1").await.unwrap();
    proxy.commit("u1").await.unwrap();
    proxy.lease("workshop", "u2", 60).await.unwrap();
}
