//! The boot loader's variables where they really are: GRUB's environment file in two copies, or U-Boot's environment
//! behind its own tools; and what the boot loader tells through the kernel command line.
//!
//! [`BootEnv`] is what `self-update` uses. [`GrubFiles`] holds the order of writes that a power cut may hit anywhere;
//! [`UbootTools`] leaves that to U-Boot's redundant environment. [`boot_decision`] does to the same file what the boot
//! script does, for machines without a boot loader.

mod cmdline;
mod copy;
mod decision;
mod grub_files;
mod uboot_tools;

use pitstop_slots::{BootVars, GrubEnvError, VarsError};
use pitstop_types::SlotName;

pub use cmdline::{CmdlineError, booted_slot, booted_slot_of_file};
pub use copy::{BlockCopy, FileCopy};
pub use decision::{Decision, boot_decision};
pub use grub_files::GrubFiles;
pub use uboot_tools::{Separator, UbootTools};

/// Why the boot environment could not be read or changed. Nothing that depends on the change may be done then.
#[derive(Debug, thiserror::Error)]
pub enum BootEnvError {
    #[error("neither copy of the boot environment can be read ({first}; {second})")]
    Lost { first: String, second: String },
    #[error("writing the {which} copy of the boot environment")]
    Write {
        which: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Vars(#[from] VarsError),
    #[error(transparent)]
    Block(#[from] GrubEnvError),
    #[error("running {tool}")]
    Tool {
        tool: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{tool} ended with {status}: {stderr}")]
    ToolFailed { tool: String, status: String, stderr: String },
    #[error(
        "{tool} says that it wrote the boot environment, but it reads back differently; check the script separator"
    )]
    NotWritten { tool: String },
}

/// The boot loader's variables. Each change is durable when the call returns, and is one change to the boot loader.
pub trait BootEnv {
    /// The variables as the boot loader will find them.
    fn load(&self) -> Result<BootVars, BootEnvError>;

    /// Puts `vars` in place of what is there.
    fn store(&self, vars: &BootVars) -> Result<(), BootEnvError>;

    /// Mends what a power cut may have left, once at every start: copies that differ, an environment that was lost.
    /// A lost one is made anew with `booted`, which evidently starts, as the only good slot. `true`: something was mended.
    fn mend(&self, booted: &SlotName) -> Result<bool, BootEnvError>;

    /// Loads, changes and stores; stores nothing when the change changes nothing.
    fn change(&self, change: impl FnOnce(&mut BootVars) -> Result<(), VarsError>) -> Result<(), BootEnvError>
    where
        Self: Sized,
    {
        let before = self.load()?;
        let mut vars = before.clone();
        change(&mut vars)?;
        if vars == before { Ok(()) } else { self.store(&vars) }
    }
}

impl<T: BootEnv + ?Sized> BootEnv for Box<T> {
    fn load(&self) -> Result<BootVars, BootEnvError> {
        (**self).load()
    }
    fn store(&self, vars: &BootVars) -> Result<(), BootEnvError> {
        (**self).store(vars)
    }
    fn mend(&self, booted: &SlotName) -> Result<bool, BootEnvError> {
        (**self).mend(booted)
    }
}
