//! The TCU's two slots without I/O: what the boot loader's variables say, which slot the boot script takes,
//! and the life of one installation into the slot that is not running.
//!
//! Read in this order: [`BootVars`] (the variables of GRUB or U-Boot behind one set of verbs, in the protocol RAUC's
//! boot scripts use, so that an existing integration keeps working), [`GrubEnv`] (the 1024 bytes GRUB keeps them in),
//! [`SlotRecord`] (the installation machine: stage, activate, trial, bootable, commit, roll back, fall back).
//! `pitstop-boot-env` reads and writes the real thing, `self-update` drives the machine.

mod grub;
mod grubenv;
mod install;
mod uboot;
mod vars;

pub use grub::GrubVars;
pub use grubenv::{ENV_SIZE, GrubEnv, GrubEnvError, USABLE_SIZE};
pub use install::{Effect, Installation, Phase, PhaseError, SlotImage, SlotRecord, Started};
pub use uboot::{BOOT_ATTEMPTS, UbootVars};
pub use vars::{Boot, BootVars, Health, SlotPair, VarsError, Why};
