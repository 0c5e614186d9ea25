//! One proxy per interface. Calls return [`OtaError`], so a named error arrives as its variant.

use std::collections::HashMap;

use zbus::{Fd, OwnedFd, OwnedObjectPath, OwnedVariant, proxy};

use crate::*;

#[proxy(interface = "io.pitstop.Ota1.Operation", assume_defaults = false)]
pub trait Operation {
    fn cancel(&self) -> Result<()>;
    fn acknowledge(&self) -> Result<()>;
    #[zbus(property)]
    fn kind(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn update(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn ecu(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn phase(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn done(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn total(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn error_name(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn error_text(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn result(&self) -> zbus::Result<HashMap<String, OwnedVariant>>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Manager",
    default_service = "io.pitstop.Ota1.Manager",
    default_path = "/io/pitstop/Ota1/Manager"
)]
pub trait Manager {
    fn check(&self) -> Result<OwnedObjectPath>;
    fn cancel(&self) -> Result<()>;
    fn get_status(&self) -> Result<(UpdateStatus, Vec<StepStatus>)>;
    fn get_history(&self, limit: u32) -> Result<Vec<HistoryEntry>>;
    fn verify_history(&self) -> Result<(bool, u64, String)>;
    fn export_history(&self, first: u64, limit: u32) -> Result<Vec<String>>;
    fn get_refusals(&self, limit: u32) -> Result<Vec<RefusalEntry>>;
    #[zbus(property)]
    fn phase(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn update(&self) -> zbus::Result<String>;
    #[zbus(signal)]
    fn transition(&self, update: String, phase: String, end: String) -> zbus::Result<()>;
    #[zbus(signal)]
    fn step_changed(&self, step: StepStatus) -> zbus::Result<()>;
}

#[proxy(
    interface = "io.pitstop.Ota1.BackendLink",
    default_service = "io.pitstop.Ota1.BackendLink",
    default_path = "/io/pitstop/Ota1/BackendLink"
)]
pub trait BackendLink {
    fn provision(&self, token: &str) -> Result<OwnedObjectPath>;
    fn fetch_metadata(&self, repository: &str, file: &str, limit: u64) -> Result<Vec<u8>>;
    fn get_link(&self, sha256: &str) -> Result<(String, i64)>;
    fn send_manifest(&self, manifest: &[u8]) -> Result<()>;
    fn report(&self, report: &str) -> Result<u64>;
    fn report_progress(&self, update: &str, progress: &str) -> Result<()>;
    fn get_status(&self) -> Result<LinkStatus>;
    #[zbus(property)]
    fn connected(&self) -> zbus::Result<bool>;
    #[zbus(property)]
    fn provisioned(&self) -> zbus::Result<bool>;
    #[zbus(signal)]
    fn hint(&self, kind: String) -> zbus::Result<()>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Downloader",
    default_service = "io.pitstop.Ota1.Downloader",
    default_path = "/io/pitstop/Ota1/Downloader"
)]
pub trait Downloader {
    fn fetch(&self, update: &str, sha256: &str, length: u64) -> Result<OwnedObjectPath>;
    fn open(&self, sha256: &str) -> Result<OwnedFd>;
    fn release(&self, update: &str) -> Result<()>;
    fn get_usage(&self) -> Result<CacheUsage>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Validator",
    default_service = "io.pitstop.Ota1.Validator",
    default_path = "/io/pitstop/Ota1/Validator"
)]
pub trait Validator {
    fn get_identity(&self) -> Result<(String, String)>;
    fn collect_manifest(&self, update: &str) -> Result<Vec<u8>>;
    fn verify(&self) -> Result<OwnedObjectPath>;
    fn get_decision(&self, update: &str) -> Result<String>;
    fn admit(&self, update: &str, ecu: &str, role: &str, bundle: Fd<'_>) -> Result<OwnedObjectPath>;
    fn open_admitted(&self, update: &str, ecu: &str, role: &str) -> Result<(OwnedFd, AdmittedBundle)>;
    fn receive_local(&self, length: u64) -> Result<(OwnedFd, OwnedObjectPath)>;
    fn end_local(&self, update: &str, committed: bool) -> Result<()>;
    fn release(&self, update: &str) -> Result<()>;
    fn get_floors(&self) -> Result<Vec<(String, u64)>>;
    fn raise_floors(&self, update: &str) -> Result<()>;
    fn get_status(&self) -> Result<ValidatorStatus>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Hmi",
    default_service = "io.pitstop.Ota1.Hmi",
    default_path = "/io/pitstop/Ota1/Hmi"
)]
pub trait Hmi {
    fn ask(&self, update: &str, facts: &Facts) -> Result<OwnedObjectPath>;
    fn get_answer(&self, update: &str) -> Result<Answer>;
    fn ask_again(&self, update: &str) -> Result<()>;
    fn withdraw(&self, update: &str) -> Result<()>;
    fn notify(&self, update: &str, end: &str, text: &str) -> Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn answered(&self, update: String, choice: String) -> zbus::Result<()>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Prompts",
    default_service = "io.pitstop.Ota1.Hmi",
    default_path = "/io/pitstop/Ota1/Hmi"
)]
pub trait Prompts {
    fn list_prompts(&self) -> Result<Vec<OwnedObjectPath>>;
    fn list_notices(&self) -> Result<Vec<OwnedObjectPath>>;
    #[zbus(signal)]
    fn prompt_added(&self, prompt: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    fn prompt_removed(&self, prompt: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    fn notice_added(&self, notice: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    fn notice_removed(&self, notice: OwnedObjectPath) -> zbus::Result<()>;
}

#[proxy(interface = "io.pitstop.Ota1.Prompt", default_service = "io.pitstop.Ota1.Hmi", assume_defaults = false)]
pub trait Prompt {
    fn answer(&self, choice: &str, at: i64, origin: &str, text_digest: &str) -> Result<()>;
    #[zbus(property)]
    fn update(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn purpose(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn changes(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn expected_seconds(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn unavailable(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn instructions(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn text_digest(&self) -> zbus::Result<String>;
}

#[proxy(interface = "io.pitstop.Ota1.Notice", default_service = "io.pitstop.Ota1.Hmi", assume_defaults = false)]
pub trait Notice {
    fn acknowledge(&self) -> Result<()>;
    #[zbus(property)]
    fn update(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn end(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn text(&self) -> zbus::Result<String>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Flasher",
    default_service = "io.pitstop.Ota1.Flasher",
    default_path = "/io/pitstop/Ota1/Flasher"
)]
pub trait Flasher {
    fn list_ecus(&self) -> Result<Vec<EcuDescription>>;
    fn read_versions(&self, ecus: &[String]) -> Result<Vec<EcuVersions>>;
    fn stage(&self, update: &str, ecu: &str, expected: &str, attempt: u32) -> Result<OwnedObjectPath>;
    fn activate(&self, update: &str, ecu: &str, expected: &str, attempt: u32) -> Result<OwnedObjectPath>;
    fn commit(&self, update: &str, ecu: &str, attempt: u32) -> Result<OwnedObjectPath>;
    fn roll_back(&self, update: &str, ecu: &str, attempt: u32) -> Result<OwnedObjectPath>;
}

#[proxy(
    interface = "io.pitstop.Ota1.SelfUpdate",
    default_service = "io.pitstop.Ota1.SelfUpdate",
    default_path = "/io/pitstop/Ota1/SelfUpdate"
)]
pub trait SelfUpdate {
    fn get_slots(&self) -> Result<Vec<SlotStatus>>;
    fn get_release(&self, slot: &str) -> Result<SlotRelease>;
    fn stage(&self, update: &str, expected: &str, attempt: u32) -> Result<OwnedObjectPath>;
    fn activate(&self, update: &str) -> Result<()>;
    fn reboot(&self, update: &str) -> Result<()>;
    fn mark_good(&self, update: &str) -> Result<()>;
    fn mark_other_bad(&self, update: &str) -> Result<()>;
    fn commit(&self, update: &str) -> Result<()>;
    fn roll_back(&self, update: &str) -> Result<bool>;
    fn lease(&self, owner: &str, update: &str, seconds: u32) -> Result<()>;
    fn release_lease(&self, update: &str) -> Result<()>;
    #[zbus(property)]
    fn booted_slot(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn fall_back_reason(&self) -> zbus::Result<String>;
}

#[proxy(
    interface = "io.pitstop.Ota1.Workshop",
    default_service = "io.pitstop.Ota1.SelfUpdate",
    default_path = "/io/pitstop/Ota1/SelfUpdate"
)]
pub trait Workshop {
    fn get_update(&self) -> Result<(String, String, String)>;
    fn check(&self) -> Result<()>;
    fn stage(&self, update: &str, attempt: u32) -> Result<OwnedObjectPath>;
    fn activate(&self, update: &str) -> Result<()>;
    fn reboot(&self, update: &str) -> Result<()>;
    fn mark_good(&self, update: &str) -> Result<()>;
    fn commit(&self, update: &str) -> Result<()>;
    fn roll_back(&self, update: &str) -> Result<bool>;
}

#[proxy(
    interface = "io.pitstop.Ota1.UdsServer",
    default_service = "io.pitstop.Ota1.UdsServer",
    default_path = "/io/pitstop/Ota1/UdsServer"
)]
pub trait UdsServer {
    fn get_status(&self) -> Result<UdsServerStatus>;
    #[zbus(property)]
    fn port(&self) -> zbus::Result<u16>;
    #[zbus(property)]
    fn logical_address(&self) -> zbus::Result<u16>;
}

#[proxy(
    interface = "io.pitstop.Ota1.VehicleState",
    default_service = "io.pitstop.Ota1.VehicleState",
    default_path = "/io/pitstop/Ota1/VehicleState"
)]
pub trait VehicleState {
    fn get_signals(&self) -> Result<Vec<SignalStatus>>;
    fn evaluate(&self, conditions: &[String]) -> Result<Vec<ConditionResult>>;
    fn request_inhibit(&self, owner: &str) -> Result<()>;
    fn release_inhibit(&self, owner: &str) -> Result<()>;
    fn check_safe(&self) -> Result<(bool, bool, String)>;
    #[zbus(property)]
    fn inhibit(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn inhibit_owners(&self) -> zbus::Result<Vec<String>>;
}
