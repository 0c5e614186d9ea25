//! What the service needs from outside, as narrow as its use.

use std::fs::File;
use std::future::Future;
use std::io;

use pitstop_dbus::{AdmittedBundle, Answer, Result};
use pitstop_types::SlotName;

/// The other services.
pub trait Peers: Send + Sync + 'static {
    /// `Validator.OpenAdmitted` for the TCU's target.
    fn open_admitted(&self, update: &str) -> impl Future<Output = Result<(File, AdmittedBundle)>> + Send;
    /// `VehicleState.CheckSafe`: standstill, drive inhibit acknowledged, reason if not.
    fn check_safe(&self) -> impl Future<Output = Result<(bool, bool, String)>> + Send;
    /// `VehicleState.RequestInhibit` and `ReleaseInhibit`, for a workshop's restart.
    fn request_inhibit(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    fn release_inhibit(&self, update: &str) -> impl Future<Output = Result<()>> + Send;
    /// `VehicleState.InhibitOwners`: who has requested it and not released it, in this life or an earlier one.
    fn inhibit_owners(&self) -> impl Future<Output = Result<Vec<String>>> + Send;
    /// `Hmi.GetAnswer`.
    fn answer(&self, update: &str) -> impl Future<Output = Result<Answer>> + Send;
}

/// One slot as bytes.
pub trait SlotDevice {
    /// Bytes it can hold.
    fn capacity(&self) -> io::Result<u64>;
    /// Fills `into` from `offset` on.
    fn read_at(&mut self, into: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all writes durable and forgets what is cached, so that reading goes to the device.
    fn sync(&mut self) -> io::Result<()>;
}

/// Opens slots. `booted` is given so that an implementation refuses to open that one's storage under any name.
pub trait SlotDevices: Send + Sync + 'static {
    fn open(&self, slot: &SlotName, booted: &SlotName) -> io::Result<Box<dyn SlotDevice>>;
}
