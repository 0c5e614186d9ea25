//! What the manager needs of the other services, as narrow as its use. `adapters/` has the real ones, tests have fakes.
//!
//! Errors are the bus's named errors. One that [`OtaError::is_temporary`] is answered by asking again: the same request,
//! because a service that was killed in between does not lose what it was asked for.

use std::sync::Arc;

use async_trait::async_trait;
use pitstop_dbus::{Answer, ConditionResult, EcuDescription, EcuVersions, OtaError, SlotStatus};
use pitstop_lifecycle::Role;
use pitstop_types::{Decision, EcuId, PromptFacts, SoftwareRef, UnixSeconds, UpdateEnd, UpdateId};
use zbus::OwnedObjectPath;

use crate::tether::Tether;

type Result<T> = std::result::Result<T, OtaError>;

/// All ports together.
#[derive(Clone)]
pub struct Ports {
    pub flasher: Arc<dyn EcuFlasher>,
    pub slots: Arc<dyn Slots>,
    pub content: Arc<dyn Content>,
    pub driver: Arc<dyn Driver>,
    pub vehicle: Arc<dyn Vehicle>,
    pub backend: Arc<dyn Backend>,
    pub clock: Arc<dyn Clock>,
}

/// What an ECU or the TCU's slot is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Stage,
    Activate,
    Commit,
    RollBack,
}

/// One order with what it expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub verb: Verb,
    pub update: UpdateId,
    pub ecu: EcuId,
    /// Version the ECU must run now; empty: its bootloader.
    pub expected: String,
    pub attempt: u32,
}

/// A finished operation whose object can be taken away once its result is stored in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Last word of the bus name.
    pub service: &'static str,
    pub path: OwnedObjectPath,
}

/// How an order ended.
#[derive(Debug)]
pub struct Ended {
    pub result: Result<()>,
    pub receipt: Option<Receipt>,
}

impl Ended {
    pub fn without_receipt(result: Result<()>) -> Self {
        Self { result, receipt: None }
    }
}

/// `flasher`: the ECUs other than the TCU.
#[async_trait]
pub trait EcuFlasher: Send + Sync {
    async fn list(&self) -> Result<Vec<EcuDescription>>;
    async fn versions(&self, ecus: &[EcuId]) -> Result<Vec<EcuVersions>>;
    /// Carries out one order to its end; the same order again finds the same work.
    async fn carry_out(&self, order: &Order, tether: &Tether) -> Ended;
}

/// `self-update`: the TCU's slots.
#[async_trait]
pub trait Slots: Send + Sync {
    async fn slots(&self) -> Result<Vec<SlotStatus>>;
    /// Differs from boot to boot.
    async fn boot_id(&self) -> String;
    /// Why the slot that was tried last was left; empty: not known.
    async fn fall_back_reason(&self) -> String;
    async fn stage(&self, order: &Order, tether: &Tether) -> Ended;
    async fn activate(&self, update: &UpdateId) -> Result<()>;
    async fn reboot(&self, update: &UpdateId) -> Result<()>;
    async fn mark_good(&self, update: &UpdateId) -> Result<()>;
    async fn mark_other_bad(&self, update: &UpdateId) -> Result<()>;
    async fn commit(&self, update: &UpdateId) -> Result<()>;
    async fn roll_back(&self, update: &UpdateId) -> Result<()>;
    async fn release_lease(&self, update: &UpdateId) -> Result<()>;
}

/// `downloader` and `validator`: what may be installed, and its bytes.
#[async_trait]
pub trait Content: Send + Sync {
    /// Signed manifest of what is installed now. `update`: the update it proves.
    async fn collect_manifest(&self, update: Option<&UpdateId>) -> Result<Vec<u8>>;
    /// Verifies what the Director and the Image repository say; `None`: nothing is wanted.
    async fn verify(&self, tether: &Tether) -> Result<Option<UpdateId>>;
    async fn decision(&self, update: &UpdateId) -> Result<Decision>;
    /// Fetches one bundle and has it admitted.
    async fn admit(
        &self,
        update: &UpdateId,
        ecu: &EcuId,
        role: Role,
        bundle: &SoftwareRef,
        tether: &Tether,
    ) -> Result<()>;
    async fn raise_floors(&self, update: &UpdateId) -> Result<()>;
    /// Forgets the update's bundles, fetched and admitted.
    async fn release(&self, update: &UpdateId) -> Result<()>;
}

/// `hmi`: the driver.
#[async_trait]
pub trait Driver: Send + Sync {
    async fn ask(&self, update: &UpdateId, facts: &PromptFacts) -> Result<()>;
    async fn ask_again(&self, update: &UpdateId) -> Result<()>;
    /// The stored answer; its choice is empty while there is none.
    async fn answer(&self, update: &UpdateId) -> Result<Answer>;
    /// Returns when an answer may have come; a lost one is found by looking again.
    async fn answered(&self);
    async fn withdraw(&self, update: &UpdateId) -> Result<()>;
    async fn notify(&self, update: &UpdateId, end: UpdateEnd, text: &str) -> Result<()>;
}

/// `vehicle-state`: conditions and drive inhibit.
#[async_trait]
pub trait Vehicle: Send + Sync {
    async fn evaluate(&self, conditions: &[String]) -> Result<Vec<ConditionResult>>;
    async fn request_inhibit(&self, update: &UpdateId) -> Result<()>;
    async fn release_inhibit(&self, update: &UpdateId) -> Result<()>;
    /// Whose requests have not been released.
    async fn inhibit_owners(&self) -> Result<Vec<UpdateId>>;
    /// `Ok(None)`: standstill and acknowledged drive inhibit; otherwise what is missing.
    async fn unsafe_because(&self) -> Result<Option<String>>;
}

/// `backend-link`.
#[async_trait]
pub trait Backend: Send + Sync {
    async fn send_manifest(&self, manifest: &[u8]) -> Result<()>;
    /// Puts a report into the durable outbox.
    async fn report(&self, report: &str) -> Result<()>;
    async fn report_progress(&self, update: &UpdateId, progress: &str) -> Result<()>;
    /// Takes an operation's object away; nothing is lost if that fails.
    async fn acknowledge(&self, receipt: Receipt);
}

/// The wall clock; `None` while it is not known to be right.
pub trait Clock: Send + Sync {
    fn now(&self) -> Option<UnixSeconds>;
}
