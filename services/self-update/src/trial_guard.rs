//! `pitstopd trial-guard`: what watches over a slot that nobody has vouched for yet, when those who should may be what is broken.
//!
//! A unit starts it at every boot (`tcu-trial-guard.service`, before `boot-complete.target`), and once more when the system
//! ends in its emergency mode. All services answer: nothing to do. Otherwise, and only if the boot loader has a slot to go back to,
//! it notes the reason and restarts the machine; a slot that was not marked good is not chosen again. A committed slot is never
//! restarted by it: nothing better would start.
//!
//! A boot environment that cannot be read, as when `/boot` is not mounted, is judged by what self-update has on record, and only once:
//! whether the boot loader can read what its choice follows from is not known then.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pitstop_boot_env::{BootEnv, booted_slot_of_file};
use pitstop_runtime::Args;
use pitstop_slots::{Health, Phase, SlotRecord};
use pitstop_store::{Storage, StoreError};
use pitstop_types::SlotName;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zbus::Connection;
use zbus::fdo::PeerProxy;

use crate::config::{self, Input};
use crate::core::{chain, stored_record};

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(2);
/// Rounds in a row in which everybody must answer: one that is restarted again and again answers now and then.
const ROUNDS: u32 = 4;
/// Longest reason that is kept: a sentence, in bytes.
const MAX_TEXT: usize = 1024;
/// Longest file with a reason that is read back, in bytes: JSON may write each byte of the text as six.
const MAX_REASON: u64 = 8 * 1024;
/// Longest record of the slots that is read, in bytes; it has some hundreds.
const MAX_RECORD: u64 = 64 * 1024;
/// Longest file of settings that is read, in bytes.
const MAX_SETTINGS: u64 = 256 * 1024;
/// Settings for an image whose own cannot be read.
const BUILT_IN: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/self-update.toml");
/// How long the bus, or a service, may take to answer.
const PING: Duration = Duration::from_secs(5);
/// self-update's state folder.
const STATE: &str = "var/lib/pitstop/self-update";
/// File with the reason there.
const FILE: &str = "fall-back";
/// Where an image may have its units, in systemd's order; the last is for systems whose `/lib` is not `/usr/lib`.
const UNITS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// Why a slot was left to the boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub slot: SlotName,
    pub text: String,
}

impl Reason {
    /// Where it is kept below `root`.
    pub fn path(root: &Path) -> PathBuf {
        root.join(STATE).join(FILE)
    }

    /// The stored reason; `None` if there is none that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        fs::File::open(path).ok()?.take(MAX_REASON).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut short = self.clone();
        short.text.truncate(short.text.floor_char_boundary(MAX_TEXT));
        let file = fs::File::create(path)?;
        serde_json::to_writer(&file, &short)?;
        file.sync_all()?;
        // The name too: a note that is gone after the restart would not stop the next one.
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }
}

/// What the guard found, as one word and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Healthy,
    /// Sick, and there is no slot to go back to, or somebody has vouched for this one.
    Stay(String),
    Restart(Reason),
}

/// Entry of the tool. Exit status 0: healthy.
pub fn main(args: Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let judged = runtime.context("starting the event loop").and_then(|runtime| runtime.block_on(guard(&args)));
    match judged {
        Ok(Verdict::Healthy) => {
            println!("all services answer");
            ExitCode::SUCCESS
        }
        Ok(Verdict::Stay(why)) => {
            eprintln!("trial-guard: {why}; this slot stays");
            ExitCode::FAILURE
        }
        Ok(Verdict::Restart(reason)) => {
            eprintln!("trial-guard: slot {} is left to the boot loader: {}", reason.slot, reason.text);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("trial-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn guard(args: &Args) -> anyhow::Result<Verdict> {
    let (input, unreadable) = settings(&args.root)?;
    let below = |path: &Path| args.root.join(path.strip_prefix("/").unwrap_or(path));
    let limit = Duration::from_secs(input.guard.limit_secs);
    let services: Vec<String> =
        input.guard.services.iter().filter(|name| is_installed(&args.root, name)).cloned().collect();
    let Some(mut trouble) = trouble(&services, limit).await else { return Ok(Verdict::Healthy) };
    if let Some(error) = unreadable {
        trouble = format!("{trouble}; {error}");
    }
    let (slots, _) = config::slots(&input, below)?;
    let booted = booted_slot_of_file(&below(&input.cmdline), &slots).context("finding the booted slot")?;
    let other = slots.other(&booted)?.clone();
    let path = Reason::path(&args.root);
    let loaded = config::boot_env(&input.boot.below(below), &slots).load();
    let verdict = match &loaded {
        Ok(vars) => judge(trouble, &booted, vars.health(&booted), vars.health(&other)),
        Err(error) => {
            let trouble = format!("{trouble}; {}", chain(error));
            let record = stored_record(Arc::new(StateFolder(args.root.join(STATE))));
            judge_by_record(trouble, &booted, &other, record, Reason::read(&path).as_ref())
        }
    };
    if let Verdict::Restart(reason) = &verdict {
        match (reason.write(&path), &loaded) {
            // Where data cannot be written, the boot loader's choice must do as a reason.
            (Err(error), Ok(_)) => eprintln!("trial-guard: the reason is not kept: {error}"),
            (Err(error), Err(_)) => return Err(error).context("keeping the reason, without which there is no restart"),
            (Ok(()), _) => {}
        }
        // What cannot be read back would not stop the next restart.
        let noted = Reason::read(&path).is_some_and(|noted| noted.slot == booted);
        ensure!(loaded.is_ok() || noted, "the reason is not read back, without which there is no restart");
        restart(&input.guard.restart_command)?;
    }
    Ok(verdict)
}

/// The settings, and what is wrong with them: those of a release that self-update cannot start with must not stop the guard too. Then
/// the image's own are taken, and those built in where they are not right either.
fn settings(root: &Path) -> anyhow::Result<(Input, Option<String>)> {
    let error = match pitstop_runtime::load_config(root, "self-update") {
        Ok(input) => return Ok((input, None)),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    eprintln!("trial-guard: {error}");
    let mut own = String::new();
    let file = fs::File::open(root.join("usr/lib/pitstop/self-update.toml"));
    let read = file.and_then(|file| file.take(MAX_SETTINGS).read_to_string(&mut own));
    let of_image = read.ok().and_then(|_| toml::from_str(&own).ok());
    let input = of_image.map_or_else(|| toml::from_str(BUILT_IN).context("the built-in settings"), Ok)?;
    Ok((input, Some(error)))
}

/// Whether this image has the service at all: integrators leave some out. A unit that is masked is installed, and missed.
fn is_installed(root: &Path, service: &str) -> bool {
    let unit = format!("{}.service", pitstop_dbus::unit_name(service));
    // A link counts wherever it leads: the mask to /dev/null is one.
    UNITS.iter().any(|folder| root.join(folder).join(&unit).symlink_metadata().is_ok())
}

fn judge(trouble: String, booted: &SlotName, this: Health, other: Health) -> Verdict {
    match (this, other) {
        (Health::Bad, Health::Good) => Verdict::Restart(Reason { slot: booted.clone(), text: trouble }),
        (Health::Good, _) => Verdict::Stay(format!("{trouble}; slot {booted} has been vouched for")),
        (Health::Bad, Health::Bad) => Verdict::Stay(format!("{trouble}; the other slot is not good either")),
    }
}

/// The same where the boot environment cannot be read: self-update's record says whether anybody has vouched for the slot. `noted`: the
/// last reason for which a slot was left. A staging takes it away, so one for this slot means that this installation was left before, and
/// the boot loader came back: it stays then, rather than restarting for ever.
fn judge_by_record(
    trouble: String,
    booted: &SlotName,
    other: &SlotName,
    record: Result<Option<SlotRecord>, StoreError>,
    noted: Option<&Reason>,
) -> Verdict {
    let record = match record {
        Ok(Some(record)) => record,
        Ok(None) => return Verdict::Stay(format!("{trouble}; there is no record of the slots")),
        Err(error) => return Verdict::Stay(format!("{trouble}; {}", chain(&error))),
    };
    let phase = record.installation.filter(|now| now.target == *booted).map(|now| now.phase);
    // Marking good is left out: the boot loader may know it already, and would not choose the other.
    let on_trial = matches!(phase, Some(Phase::Activating | Phase::Activated | Phase::Trial));
    if !on_trial || record.committed != *other {
        return Verdict::Stay(format!("{trouble}; by the record slot {booted} is not on trial"));
    }
    match noted {
        Some(reason) if reason.slot == *booted => {
            Verdict::Stay(format!("{trouble}; it was left before, and came back"))
        }
        _ => Verdict::Restart(Reason { slot: booted.clone(), text: trouble }),
    }
}

/// self-update's stored files, to read only: opening them as their owner does would clear away what it may just be writing.
struct StateFolder(PathBuf);

impl StateFolder {
    fn refused(name: &str) -> StoreError {
        let source = std::io::ErrorKind::ReadOnlyFilesystem.into();
        StoreError::Io { action: "changing", name: name.to_owned(), source }
    }
}

impl Storage for StateFolder {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut bytes = Vec::new();
        let read = fs::File::open(self.0.join(name)).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { action: "reading", name: name.to_owned(), source }),
        }
    }

    fn replace(&self, name: &str, _: &[u8]) -> Result<(), StoreError> {
        Err(Self::refused(name))
    }

    fn append(&self, name: &str, _: &[u8]) -> Result<(), StoreError> {
        Err(Self::refused(name))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        Err(Self::refused(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Err(Self::refused(prefix))
    }
}

fn restart(command: &[String]) -> anyhow::Result<()> {
    let (program, words) = command.split_first().context("guard.restart_command is empty")?;
    let status = Command::new(program).args(words).status().with_context(|| format!("running {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

/// What still does not answer when the time is over; `None`: everybody does.
async fn trouble(services: &[String], limit: Duration) -> Option<String> {
    let deadline = Instant::now() + limit;
    let mut well = 0;
    loop {
        match round(services).await {
            Ok(()) => well += 1,
            Err(error) if Instant::now() >= deadline => return Some(error),
            Err(_) => well = 0,
        }
        if well >= ROUNDS {
            return None;
        }
        sleep(PAUSE).await;
    }
}

/// Asks everybody once. Nobody to ask is no good answer: an image without any service of ours cannot be updated again.
async fn round(services: &[String]) -> Result<(), String> {
    if services.is_empty() {
        return Err(format!(
            "nothing could be asked: no service of guard.services has a unit in any of /{}",
            UNITS.join(", /")
        ));
    }
    // It may accept a connection and never say a word.
    let bus = tokio::time::timeout(PING, Connection::system())
        .await
        .map_err(|_| format!("the system bus does not answer in {} s", PING.as_secs()))?
        .map_err(|error| format!("the system bus does not answer: {error}"))?;
    for service in services {
        let asked = async {
            let peer =
                PeerProxy::new(&bus, pitstop_dbus::bus_name(service), pitstop_dbus::object_path(service)).await?;
            peer.ping().await?;
            Ok::<(), zbus::Error>(())
        };
        let answer = tokio::time::timeout(PING, asked).await;
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("{service} does not answer: {error}")),
            Err(_) => return Err(format!("{service} does not answer in {} s", PING.as_secs())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pitstop_slots::SlotImage;
    use pitstop_store::{Document, FileStorage};
    use pitstop_types::{Digest, ReleaseCounter, SoftwareVersion, UpdateId};

    use super::*;

    fn slot(name: &str) -> SlotName {
        SlotName::new(name).unwrap()
    }

    #[test]
    fn only_a_slot_on_trial_with_a_good_one_beside_it_is_left() {
        let trouble = || "Flasher does not answer".to_owned();
        let judge = |this, other| judge(trouble(), &slot("B"), this, other);
        assert_eq!(judge(Health::Bad, Health::Good), Verdict::Restart(Reason { slot: slot("B"), text: trouble() }));
        for (this, other) in [(Health::Good, Health::Good), (Health::Good, Health::Bad), (Health::Bad, Health::Bad)] {
            assert!(matches!(judge(this, other), Verdict::Stay(_)), "{this:?} {other:?}");
        }
    }

    /// The record when the slot is to be tried at the next start: B, beside A.
    fn activated() -> SlotRecord {
        let update = UpdateId::new("u1").unwrap();
        let image = SlotImage {
            version: SoftwareVersion::new("2.0").unwrap(),
            counter: ReleaseCounter(2),
            length: 1,
            sha256: Digest::of(b"2"),
        };
        let mut record = SlotRecord::new(slot("A"));
        record.stage(update.clone(), slot("B"), image, &slot("A")).unwrap();
        record.done();
        record.done();
        record.activate(&update).unwrap();
        record.done();
        record
    }

    fn in_phase(phase: Phase) -> SlotRecord {
        let mut record = activated();
        record.installation.as_mut().unwrap().phase = phase;
        record
    }

    #[test]
    fn without_a_boot_environment_only_a_slot_that_nobody_has_vouched_for_is_left() {
        let judge = |booted: &str, record| {
            let (booted, other) = if booted == "B" { ("B", "A") } else { ("A", "B") };
            judge_by_record("no /boot".to_owned(), &slot(booted), &slot(other), record, None)
        };
        for phase in Phase::ALL {
            let on_trial = matches!(phase, Phase::Activating | Phase::Activated | Phase::Trial);
            let verdict = judge("B", Ok(Some(in_phase(phase))));
            assert_eq!(matches!(verdict, Verdict::Restart(_)), on_trial, "{phase}: {verdict:?}");
            // The old slot, which runs on or again.
            assert!(matches!(judge("A", Ok(Some(in_phase(phase)))), Verdict::Stay(_)), "{phase}");
        }
        let committed = SlotRecord { committed: slot("B"), ..in_phase(Phase::Trial) };
        let damaged = StoreError::Damaged { name: "slots".to_owned(), reason: "wrong checksum".to_owned() };
        for record in [Ok(Some(committed)), Ok(Some(SlotRecord::new(slot("B")))), Ok(None), Err(damaged)] {
            assert!(matches!(judge("B", record), Verdict::Stay(_)));
        }
    }

    /// A start of slot B whose `/boot` is not mounted and whose services do not answer.
    struct Start(tempfile::TempDir);

    impl Start {
        fn new(record: &SlotRecord) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            for below in ["usr/lib/pitstop", "proc", STATE] {
                fs::create_dir_all(root.join(below)).unwrap();
            }
            let command = format!("restart_command = [\"/usr/bin/touch\", \"{}\"]", root.join("restarted").display());
            let settings = BUILT_IN.replace("limit_secs = 150", "limit_secs = 0");
            let settings =
                settings.lines().map(|line| if line.starts_with("restart_command") { command.as_str() } else { line });
            let settings: Vec<&str> = settings.collect();
            fs::write(root.join("usr/lib/pitstop/self-update.toml"), settings.join("\n")).unwrap();
            fs::write(root.join("proc/cmdline"), "quiet rauc.slot=B").unwrap();
            let storage = FileStorage::open(root.join(STATE)).unwrap();
            Document::new(Arc::new(storage) as Arc<dyn Storage>, "slots", 1).store(record).unwrap();
            Self(folder)
        }

        async fn guard(&self) -> anyhow::Result<Verdict> {
            guard(&Args { root: self.0.path().to_owned(), rest: vec![] }).await
        }

        /// Whether a restart was asked for since this was asked last.
        fn restarted(&self) -> bool {
            fs::remove_file(self.0.path().join("restarted")).is_ok()
        }
    }

    #[tokio::test]
    async fn a_slot_on_trial_that_cannot_read_the_boot_environment_is_left_once() {
        let start = Start::new(&activated());
        let unfinished = start.0.path().join(STATE).join("slots.new");
        fs::write(&unfinished, "self-update is writing").unwrap();
        assert!(matches!(start.guard().await.unwrap(), Verdict::Restart(_)));
        assert!(start.restarted());
        assert!(unfinished.exists(), "self-update's own files are let be");
        let noted = Reason::read(&Reason::path(start.0.path())).unwrap();
        assert!(noted.slot == slot("B") && noted.text.contains("nothing could be asked"), "{noted:?}");
        // The boot loader has come back to it.
        let verdict = start.guard().await.unwrap();
        assert!(matches!(&verdict, Verdict::Stay(why) if why.contains("left before")), "{verdict:?}");
        assert!(!start.restarted());
        // An older note, of the other slot, says nothing of this one.
        Reason { slot: slot("A"), text: String::new() }.write(&Reason::path(start.0.path())).unwrap();
        assert!(matches!(start.guard().await.unwrap(), Verdict::Restart(_)));
    }

    #[tokio::test]
    async fn without_a_boot_environment_there_is_no_restart_whose_reason_is_not_kept() {
        let start = Start::new(&activated());
        fs::create_dir(Reason::path(start.0.path())).unwrap();
        assert!(start.guard().await.is_err());
        assert!(!start.restarted());
    }

    #[test]
    fn a_service_that_the_image_leaves_out_is_not_missed() {
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-overlay");
        let text = fs::read_to_string(overlay.join("usr/lib/pitstop/self-update.toml")).unwrap();
        let input: Input = toml::from_str(&text).unwrap();
        assert_eq!(input.guard.services.len(), 9);
        assert!(input.guard.services.iter().all(|service| is_installed(&overlay, service)));
        assert!(!is_installed(tempfile::tempdir().unwrap().path(), "Manager"));
    }

    #[test]
    fn settings_that_self_update_cannot_start_with_do_not_stop_the_guard() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = root.path().join(name).join("self-update.toml");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("usr/lib/pitstop", &BUILT_IN.replace("limit_secs = 150", "limit_secs = 77"));
        let (input, error) = settings(root.path()).unwrap();
        assert_eq!((input.guard.limit_secs, error), (77, None));
        // A key that this release does not know any more.
        file("etc/pitstop", "cmd_line = \"/proc/cmdline\"\n");
        let (input, error) = settings(root.path()).unwrap();
        assert_eq!(input.guard.limit_secs, 77);
        assert!(error.unwrap().contains("cmd_line"));
        file("usr/lib/pitstop", "[guard]\nservices = 1");
        let (input, error) = settings(root.path()).unwrap();
        assert_eq!((input.guard.limit_secs, error.is_some()), (150, true));
    }

    #[test]
    fn a_unit_is_found_wherever_an_image_has_it_and_a_masked_one_too() {
        for folder in UNITS {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("pitstop-self-update.service"), "").unwrap();
            std::os::unix::fs::symlink("/nowhere", root.path().join(folder).join("pitstop-hmi.service")).unwrap();
            let found = ["SelfUpdate", "Hmi", "Manager"].map(|service| is_installed(root.path(), service));
            assert_eq!(found, [true, true, false], "{folder}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_without_any_service_is_not_healthy() {
        let said = trouble(&[], Duration::from_secs(10)).await.unwrap();
        assert!(said.contains("nothing could be asked") && said.contains("/usr/lib/systemd/system"), "{said}");
        // What follows is the guard's rule for any trouble: on trial it is left, vouched for it stays.
        let judge = |this| judge(said.clone(), &slot("B"), this, Health::Good);
        assert!(matches!(judge(Health::Bad), Verdict::Restart(_)));
        assert!(matches!(judge(Health::Good), Verdict::Stay(_)));
    }

    #[test]
    fn a_reason_is_read_back_and_rubbish_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fall-back");
        assert_eq!(Reason::read(&path), None);
        let reason = Reason { slot: slot("B"), text: "é".repeat(4000) };
        reason.write(&path).unwrap();
        let read = Reason::read(&path).unwrap();
        assert!(read.slot == reason.slot && reason.text.starts_with(&read.text) && read.text.len() >= 1000);
        // Each of these bytes is six in the file.
        let reason = Reason { slot: slot("B"), text: "\u{1}".repeat(4000) };
        reason.write(&path).unwrap();
        assert_eq!(Reason::read(&path).unwrap().text.len(), MAX_TEXT);
        for rubbish in [&b""[..], b"{", &[0xff; 10_000]] {
            fs::write(&path, rubbish).unwrap();
            assert_eq!(Reason::read(&path), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_is_not_there_is_named_when_the_time_is_over() {
        let services = ["Manager".to_owned()];
        // No system bus answers here: nothing of ours runs on it.
        let said = trouble(&services, Duration::from_secs(10)).await.unwrap();
        assert!(said.contains("does not answer"), "{said}");
    }
}
