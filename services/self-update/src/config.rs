//! Settings: `usr/lib/pitstop/self-update.toml` with `etc/pitstop/self-update.toml` laid over it, and the TCU's hardware id out of
//! `etc/pitstop/vehicle.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pitstop_boot_env::{BootEnv, FileCopy, GrubFiles, Separator, UbootTools};
use pitstop_slots::SlotPair;
use pitstop_types::{HardwareId, SlotName};
use serde::Deserialize;

/// The merged file, before it is checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub slots: BTreeMap<SlotName, SlotInput>,
    pub boot: BootInput,
    pub cmdline: PathBuf,
    pub keyring: PathBuf,
    pub reboot_command: Vec<String>,
    pub reboot_timeout_secs: u64,
    pub lease_secs: u32,
    pub guard: GuardInput,
}

/// `[guard]`: for `trial-guard`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardInput {
    /// Services that must answer, by the last part of their bus name.
    pub services: Vec<String>,
    pub limit_secs: u64,
    pub restart_command: Vec<String>,
}

/// `[slots.A]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotInput {
    pub device: PathBuf,
}

/// `[boot]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootInput {
    pub loader: Loader,
    pub grubenv: PathBuf,
    pub grubenv_copy: PathBuf,
    pub fw_printenv: PathBuf,
    pub fw_setenv: PathBuf,
    pub fw_script: ScriptForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    Grub,
    Uboot,
}

impl BootInput {
    /// With the paths of both copies below the root.
    pub(crate) fn below(&self, below: impl Fn(&Path) -> PathBuf) -> Self {
        Self { grubenv: below(&self.grubenv), grubenv_copy: below(&self.grubenv_copy), ..self.clone() }
    }
}

/// How `fw_setenv -s` wants its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScriptForm {
    /// `name=value`, libubootenv.
    Equals,
    /// `name value`, U-Boot's own tool.
    Space,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("a TCU has two slots, {0} are configured")]
    Slots(usize),
    #[error(transparent)]
    Pair(#[from] pitstop_slots::VarsError),
    #[error("reboot_command is empty")]
    NoRebootCommand,
    #[error("lease_secs is {0}; 60 to 86400 are allowed")]
    Lease(u32),
    #[error("reading {}", .0.display())]
    Vehicle(PathBuf, #[source] std::io::Error),
    #[error("{} says nothing of [tcu] hardware that can be read", .0.display())]
    NoHardware(PathBuf, #[source] toml::de::Error),
}

/// Checked settings, with every path below the root.
#[derive(Debug, Clone)]
pub struct Settings {
    pub slots: SlotPair,
    /// Slot to file or block device.
    pub devices: BTreeMap<SlotName, PathBuf>,
    pub boot: BootInput,
    pub cmdline: PathBuf,
    pub keyring: PathBuf,
    pub reboot_command: Vec<String>,
    pub reboot_timeout: std::time::Duration,
    pub lease_secs: u32,
    pub hardware: HardwareId,
}

impl Settings {
    /// Checks `input`; `below` puts a path below the root.
    pub fn new(input: Input, root: &Path, below: impl Fn(&Path) -> PathBuf) -> Result<Self, SettingsError> {
        let (slots, devices) = slots(&input, &below)?;
        if input.reboot_command.is_empty() {
            return Err(SettingsError::NoRebootCommand);
        }
        if !(60..=86_400).contains(&input.lease_secs) {
            return Err(SettingsError::Lease(input.lease_secs));
        }
        let root = root.display().to_string();
        let hardware = hardware(&below(Path::new("etc/pitstop/vehicle.toml")))?;
        let boot = input.boot.below(&below);
        Ok(Self {
            slots,
            devices,
            boot,
            cmdline: below(&input.cmdline),
            keyring: below(&input.keyring),
            reboot_command: input.reboot_command.iter().map(|word| word.replace("{root}", &root)).collect(),
            reboot_timeout: std::time::Duration::from_secs(input.reboot_timeout_secs),
            lease_secs: input.lease_secs,
            hardware,
        })
    }

    /// The boot environment that is configured.
    pub fn boot_env(&self) -> Box<dyn BootEnv + Send> {
        boot_env(&self.boot, &self.slots)
    }
}

/// The boot environment of `boot`, whose paths lie below the root already.
pub(crate) fn boot_env(boot: &BootInput, slots: &SlotPair) -> Box<dyn BootEnv + Send> {
    match boot.loader {
        Loader::Grub => {
            Box::new(GrubFiles::new(FileCopy::new(&boot.grubenv), FileCopy::new(&boot.grubenv_copy), slots.clone()))
        }
        Loader::Uboot => Box::new(UbootTools {
            fw_printenv: boot.fw_printenv.clone(),
            fw_setenv: boot.fw_setenv.clone(),
            separator: match boot.fw_script {
                ScriptForm::Equals => Separator::Equals,
                ScriptForm::Space => Separator::Space,
            },
            slots: slots.clone(),
        }),
    }
}

/// The pair and the devices alone, for the boot decision, which needs nothing else.
pub(crate) fn slots(
    input: &Input,
    below: impl Fn(&Path) -> PathBuf,
) -> Result<(SlotPair, BTreeMap<SlotName, PathBuf>), SettingsError> {
    let names: Vec<SlotName> = input.slots.keys().cloned().collect();
    let [first, second] = <[SlotName; 2]>::try_from(names).map_err(|names| SettingsError::Slots(names.len()))?;
    let devices = input.slots.iter().map(|(name, slot)| (name.clone(), below(&slot.device))).collect();
    Ok((SlotPair::new(first, second)?, devices))
}

/// The TCU's hardware id; the rest of the file is other services' business.
fn hardware(path: &Path) -> Result<HardwareId, SettingsError> {
    #[derive(Deserialize)]
    struct Vehicle {
        tcu: Tcu,
    }
    #[derive(Deserialize)]
    struct Tcu {
        hardware: HardwareId,
    }
    let text = std::fs::read_to_string(path).map_err(|e| SettingsError::Vehicle(path.to_owned(), e))?;
    let vehicle: Vehicle = toml::from_str(&text).map_err(|e| SettingsError::NoHardware(path.to_owned(), e))?;
    Ok(vehicle.tcu.hardware)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDOR: &str = include_str!("../../../rootfs-overlay/usr/lib/pitstop/self-update.toml");

    fn settings(change: impl FnOnce(&mut Input)) -> Result<Settings, SettingsError> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/pitstop")).unwrap();
        std::fs::write(root.path().join("etc/pitstop/vehicle.toml"), "vin = \"x\"\n[tcu]\nhardware = \"tcu-a1\"\n")
            .unwrap();
        let mut input: Input = toml::from_str(VENDOR).unwrap();
        change(&mut input);
        let below = |path: &Path| root.path().join(path.strip_prefix("/").unwrap_or(path));
        Settings::new(input, root.path(), below)
    }

    #[test]
    fn the_vendors_file_is_whole_and_lies_below_the_root() {
        let settings = settings(|_| {}).unwrap();
        assert_eq!(settings.hardware.as_str(), "tcu-a1");
        assert!(settings.devices.values().all(|device| device.starts_with("/tmp")));
    }

    #[test]
    fn a_root_in_the_reboot_command_is_filled_in() {
        let settings = settings(|input| input.reboot_command = vec!["touch".into(), "{root}/run/x".into()]).unwrap();
        assert!(settings.reboot_command[1].starts_with("/tmp") && settings.reboot_command[1].ends_with("/run/x"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert!(matches!(settings(|i| i.reboot_command.clear()), Err(SettingsError::NoRebootCommand)));
        assert!(matches!(settings(|i| i.lease_secs = 5), Err(SettingsError::Lease(5))));
        assert!(matches!(settings(|i| drop(i.slots.pop_first())), Err(SettingsError::Slots(1))));
        assert!(toml::from_str::<Input>(&format!("colour = 1\n{VENDOR}")).is_err());
    }
}
