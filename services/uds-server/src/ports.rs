//! What a workshop's update needs from outside, as narrow as its use.

use std::future::Future;
use std::os::fd::OwnedFd;

use pitstop_dbus::Result;

/// The workshop's update in the slots, as `self-update` has it on record. Empty texts: there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotView {
    pub update: String,
    pub phase: String,
    pub version: String,
}

/// The other services.
pub trait Peers: Send + Sync + 'static {
    /// A package under way at the validator.
    type Reception: Send;

    /// `Validator.ReceiveLocal`: the pipe to write to, and what to ask for the end.
    fn receive(&self, length: u64) -> impl Future<Output = Result<(OwnedFd, Self::Reception)>> + Send;
    /// The end of it: update and version that were admitted, or why not.
    fn received(&self, reception: Self::Reception) -> impl Future<Output = Result<(String, String)>> + Send;
    /// `Validator.EndLocal`.
    fn end(&self, update: &str, committed: bool) -> impl Future<Output = Result<()>> + Send;

    /// `Workshop.Check`.
    fn check(&self) -> impl Future<Output = Result<()>> + Send;
    /// `Workshop.GetUpdate`.
    fn view(&self) -> impl Future<Output = Result<SlotView>> + Send;
    /// `Workshop.Stage`, to its end.
    fn stage(&self, update: &str, attempt: u32) -> impl Future<Output = Result<()>> + Send;
    fn activate(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    fn reboot(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    fn mark_good(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    fn commit(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    /// True: a restart is due.
    fn roll_back(&self, update: &str) -> impl Future<Output = Result<bool>> + Send;

    /// `VehicleState.InhibitOwners`: whether the vehicle is held for this update.
    fn is_held(&self, update: &str) -> impl Future<Output = Result<bool>> + Send;

    /// Whether this start is fit to be kept: the services answer, `version` runs, and we answer ourselves. The text says what is not.
    fn health(&self, version: &str) -> impl Future<Output = std::result::Result<(), String>> + Send;
}
