mod routines;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pitstop_types::Vin;
use pitstop_uds::server::{Download, EcuContent, Protection, Reply, Rule, Sessions};
use pitstop_uds::{
    AddressAndSize, BlockLength, Did, Monotonic, Nrc, ResetType, RoutineAction, RoutineId, ServiceId, SessionType,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use routines::{ACTIVATE, BANK_STATUS, COMMIT, PASSED, ROLL_BACK};

use crate::flash::{Flash, FlashError};
use crate::vehicle::{Banks, EcuSpec, Security};

/// Which program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Application,
    Loader,
}

/// What one simulated ECU holds and does behind its UDS server.
#[derive(Debug)]
pub struct Content {
    spec: Arc<EcuSpec>,
    vin: Vin,
    flash: Flash,
    mode: Mode,
    /// The bank whose software runs.
    running: usize,
    /// Times real: flash and boot times are divided by it, like the bus's.
    speed: f64,
    rng: StdRng,
    /// What the ECU ran when it was told to reject everything else, and how often it still does (`None`: always).
    rejects_all_but: Option<(Vec<u8>, Option<u32>)>,
    written: BTreeMap<Did, Vec<u8>>,
    dtcs_cleared: bool,
    /// Communication control (28): no broadcasts.
    silent: bool,
    restart_wanted: bool,
    job: Option<Job>,
    /// A block is taken into memory and written while the next one comes; until then the flash is busy.
    flash_busy_until: Monotonic,
    now: Monotonic,
}

/// An act that takes its time.
#[derive(Debug)]
struct Job {
    due: Monotonic,
    result: Result<Vec<u8>, Nrc>,
}

impl Content {
    pub fn new(spec: Arc<EcuSpec>, vin: Vin, flash: Flash, speed: f64, seed: u64) -> Self {
        let mut content = Self {
            spec,
            vin,
            flash,
            mode: Mode::Loader,
            running: 0,
            speed,
            rng: StdRng::seed_from_u64(seed),
            rejects_all_but: None,
            written: BTreeMap::new(),
            dtcs_cleared: false,
            silent: false,
            restart_wanted: false,
            job: None,
            flash_busy_until: Monotonic::ZERO,
            now: Monotonic::ZERO,
        };
        content.start();
        content
    }

    pub fn spec(&self) -> &EcuSpec {
        &self.spec
    }

    pub fn flash(&self) -> &Flash {
        &self.flash
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn running(&self) -> usize {
        self.running
    }

    pub fn set_now(&mut self, now: Monotonic) {
        self.now = now;
    }

    /// From reset to the first answer.
    pub fn boot_time(&self) -> Duration {
        self.scaled(self.spec.boot_ms as f64)
    }

    /// Whether the ECU sends its broadcast messages.
    pub fn broadcasts(&self) -> bool {
        self.mode == Mode::Application && !self.silent
    }

    /// From now on memory that differs from what runs fails its checks, `left` of them if a number is given.
    pub fn reject_checks(&mut self, left: Option<u32>) {
        self.rejects_all_but = Some((self.flash.snapshot(self.running), left));
    }

    pub fn accept_checks(&mut self) {
        self.rejects_all_but = None;
    }

    /// What the boot loader does at power-on or reset: choose a bank, count a trial's starts, or stay in the loader.
    pub fn start(&mut self) {
        self.job = None;
        self.flash_busy_until = Monotonic::ZERO;
        self.silent = false;
        self.restart_wanted = false;
        let boot = self.flash.boot().clone();
        let other = (self.flash.bank_count() - 1).min(1 - boot.active.min(1));
        let mut next = boot.clone();
        let back = |next: &mut crate::flash::BootState| {
            next.active = other;
            next.trial = None;
        };
        match boot.trial {
            Some(0) => back(&mut next),
            Some(left) => next.trial = Some(left - 1),
            None => {}
        }
        if !self.flash.is_bootable(next.active) && self.flash.is_bootable(other) {
            back(&mut next);
        }
        self.running = next.active;
        self.mode = if self.flash.is_bootable(next.active) { Mode::Application } else { Mode::Loader };
        if next != boot {
            self.keep(|kept| *kept = next);
        }
    }

    /// Whether the loader wants to start the application (left its session); asked once.
    pub fn take_restart(&mut self) -> bool {
        std::mem::take(&mut self.restart_wanted)
    }

    pub fn job_due(&self) -> Option<Monotonic> {
        self.job.as_ref().map(|job| job.due)
    }

    /// The result of the act, when its time is over.
    pub fn take_finished(&mut self, now: Monotonic) -> Option<Result<Vec<u8>, Nrc>> {
        self.job.take_if(|job| job.due <= now).map(|job| job.result)
    }

    fn later(&mut self, ms: f64, result: Result<Vec<u8>, Nrc>) {
        self.job = Some(Job { due: self.now + self.scaled(ms), result });
    }

    /// Done at `free`, which may be now.
    fn when_flash_is_free(&mut self, free: Monotonic, answer: Vec<u8>) -> Reply<Vec<u8>> {
        if free <= self.now {
            return Reply::Done(answer);
        }
        self.job = Some(Job { due: free, result: Ok(answer) });
        Reply::Later
    }

    fn scaled(&self, ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1000.0 / self.speed)
    }

    fn is_dual(&self) -> bool {
        self.spec.banks == Banks::Dual
    }

    /// The bank that is written: the one that does not run.
    fn target(&self) -> usize {
        if self.is_dual() { 1 - self.running } else { 0 }
    }

    fn on_trial(&self) -> bool {
        self.flash.boot().trial.is_some()
    }

    /// Rule of everything that changes memory.
    fn programming(&self) -> Rule {
        Rule::protected(Sessions::PROGRAMMING, self.protection())
    }

    fn protection(&self) -> Protection {
        match self.spec.security {
            Security::None => Protection::Open,
            Security::Sha256 { .. } => Protection::Unlocked,
        }
    }

    /// Whether memory may be changed now: by the loader, or in the bank that does not run and is not needed to go back.
    fn may_program(&self) -> Result<(), Nrc> {
        if self.is_dual() && self.on_trial() { Err(Nrc::ConditionsNotCorrect) } else { Ok(()) }
    }

    fn keep(&mut self, change: impl FnOnce(&mut crate::flash::BootState)) {
        if let Err(error) = self.flash.change_boot(change) {
            log::error!("{}: keeping the boot state: {error}", self.spec.id);
        }
    }
}

impl EcuContent for Content {
    fn service(&self, service: ServiceId) -> Option<Rule> {
        let application = self.mode == Mode::Application;
        let programs = self.is_dual() || !application;
        Some(match service {
            ServiceId::DiagnosticSessionControl
            | ServiceId::EcuReset
            | ServiceId::TesterPresent
            | ServiceId::ReadDataByIdentifier => Rule::open(Sessions::ALL),
            ServiceId::RoutineControl | ServiceId::WriteDataByIdentifier => Rule::open(Sessions::NOT_DEFAULT),
            ServiceId::SecurityAccess if self.protection() != Protection::Open => Rule::open(Sessions::NOT_DEFAULT),
            ServiceId::RequestDownload | ServiceId::TransferData | ServiceId::RequestTransferExit if programs => {
                self.programming()
            }
            ServiceId::ReadDtcInformation | ServiceId::ClearDiagnosticInformation if application => {
                Rule::open(Sessions::ALL)
            }
            ServiceId::CommunicationControl | ServiceId::ControlDtcSetting if application => {
                Rule::open(Sessions::EXTENDED)
            }
            _ => return None,
        })
    }

    fn may_enter(&self, _: SessionType, to: SessionType) -> Result<(), Nrc> {
        match to {
            SessionType::Default | SessionType::Programming | SessionType::Extended => Ok(()),
            SessionType::SafetySystem | SessionType::Other(_) => Err(Nrc::SubFunctionNotSupported),
        }
    }

    fn session_changed(&mut self, session: SessionType) {
        if session == SessionType::Default {
            self.silent = false;
            // A loader that is left starts the software, if there is any.
            self.restart_wanted = self.mode == Mode::Loader && self.flash.is_bootable(self.flash.boot().active);
        } else if session == SessionType::Programming && !self.is_dual() {
            self.mode = Mode::Loader;
        }
    }

    fn may_reset(&self, reset: ResetType) -> Result<Option<u8>, Nrc> {
        match reset {
            ResetType::Hard | ResetType::Soft => Ok(None),
            ResetType::KeyOffOn | ResetType::Other(_) => Err(Nrc::SubFunctionNotSupported),
        }
    }

    fn read_rule(&self, did: Did) -> Option<Rule> {
        let known = match did {
            Did::BOOT_SOFTWARE_IDENTIFICATION
            | Did::SYSTEM_SUPPLIER
            | Did::ECU_SERIAL_NUMBER
            | Did::VIN
            | Did::ECU_HARDWARE_NUMBER => true,
            Did::ECU_SOFTWARE_NUMBER | Did::ECU_SOFTWARE_VERSION => self.mode == Mode::Application,
            did => self.written.contains_key(&did),
        };
        known.then_some(Rule::open(Sessions::ALL))
    }

    fn read(&mut self, did: Did) -> Result<Vec<u8>, Nrc> {
        let identity = || self.flash.identity(self.running).ok_or(Nrc::RequestOutOfRange);
        Ok(match did {
            Did::BOOT_SOFTWARE_IDENTIFICATION => self.spec.boot_software.clone().into_bytes(),
            Did::SYSTEM_SUPPLIER => b"PITSTOP".to_vec(),
            Did::ECU_SERIAL_NUMBER => self.spec.serial.clone().into_bytes(),
            Did::VIN => self.vin.as_str().as_bytes().to_vec(),
            Did::ECU_HARDWARE_NUMBER => self.spec.hardware.as_str().as_bytes().to_vec(),
            Did::ECU_SOFTWARE_NUMBER => identity()?.software_number.into_bytes(),
            Did::ECU_SOFTWARE_VERSION => identity()?.version.as_str().as_bytes().to_vec(),
            did => self.written.get(&did).cloned().ok_or(Nrc::RequestOutOfRange)?,
        })
    }

    fn write_rule(&self, did: Did) -> Option<Rule> {
        let known = matches!(did, Did::OEM_FINGERPRINT | Did::REPAIR_SHOP_OR_TESTER_SERIAL | Did::PROGRAMMING_DATE);
        known.then(|| self.programming())
    }

    fn write(&mut self, did: Did, data: &[u8]) -> Reply<()> {
        if data.len() > 64 {
            return Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat);
        }
        self.written.insert(did, data.to_vec());
        Reply::Done(())
    }

    fn routine_rule(&self, routine: RoutineId) -> Option<Rule> {
        let dual = self.is_dual();
        let programs = dual || self.mode == Mode::Loader;
        match routine {
            RoutineId::CHECK_PRECONDITIONS => Some(Rule::open(Sessions::NOT_DEFAULT)),
            BANK_STATUS if dual => Some(Rule::open(Sessions::NOT_DEFAULT)),
            RoutineId::ERASE_MEMORY | RoutineId::CHECK_MEMORY | RoutineId::CHECK_DEPENDENCIES if programs => {
                Some(self.programming())
            }
            ACTIVATE | COMMIT | ROLL_BACK if dual => Some(self.programming()),
            _ => None,
        }
    }

    fn routine(&mut self, action: RoutineAction, routine: RoutineId, option: &[u8]) -> Reply<Vec<u8>> {
        if action != RoutineAction::Start && routine != BANK_STATUS {
            return Reply::Refused(Nrc::SubFunctionNotSupported);
        }
        match routine {
            RoutineId::CHECK_PRECONDITIONS => Reply::Done(vec![PASSED]),
            RoutineId::ERASE_MEMORY => self.erase(option),
            RoutineId::CHECK_MEMORY => self.check_memory(option),
            RoutineId::CHECK_DEPENDENCIES => self.check_dependencies(),
            ACTIVATE => self.activate(),
            COMMIT => self.commit(),
            ROLL_BACK => self.roll_back(),
            BANK_STATUS => Reply::Done(self.bank_status()),
            _ => Reply::Refused(Nrc::RequestOutOfRange),
        }
    }

    fn check_download(&self, download: &Download) -> Result<(), Nrc> {
        let AddressAndSize { address, size, .. } = download.memory;
        let fits = download.data_format == 0 && self.flash.check_range(address, size).is_ok();
        if fits { Ok(()) } else { Err(Nrc::RequestOutOfRange) }
    }

    fn open_download(&mut self, _: &Download) -> Result<BlockLength, Nrc> {
        self.may_program()?;
        Ok(BlockLength(self.spec.max_block))
    }

    fn write_block(&mut self, download: &Download, offset: u64, data: &[u8]) -> Reply<()> {
        let written = self.flash.write(self.target(), download.memory.address + offset, data);
        if let Err(error) = written {
            if let FlashError::Io(error) = &error {
                log::error!("{}: {error}", self.spec.id);
            }
            return Reply::Refused(Nrc::GeneralProgrammingFailure);
        }
        // Two buffers: this block is answered as soon as the one before is written.
        let starts = self.flash_busy_until.max(self.now);
        self.flash_busy_until = starts + self.scaled(data.len() as f64 / 1024.0 * self.spec.memory.write_ms_per_kib);
        match self.when_flash_is_free(starts, Vec::new()) {
            Reply::Later => Reply::Later,
            _ => Reply::Done(()),
        }
    }

    fn close_download(&mut self, _: &Download, _: &[u8]) -> Reply<Vec<u8>> {
        self.when_flash_is_free(self.flash_busy_until, Vec::new())
    }

    fn seed(&mut self, level: u8, data: &[u8]) -> Result<Vec<u8>, Nrc> {
        match self.spec.security {
            Security::Sha256 { level: ours, .. } if ours == level => {}
            _ => return Err(Nrc::SubFunctionNotSupported),
        }
        if !data.is_empty() {
            return Err(Nrc::IncorrectMessageLengthOrInvalidFormat);
        }
        let seed: [u8; 16] = self.rng.random();
        Ok(seed.to_vec())
    }

    fn key_fits(&self, level: u8, seed: &[u8], key: &[u8]) -> bool {
        let Security::Sha256 { secret, .. } = &self.spec.security else { return false };
        let Ok(secret) = hex::decode(secret) else { return false };
        let digest = Sha256::new().chain_update(secret).chain_update([level - 1]).chain_update(seed).finalize();
        digest.get(..16) == Some(key)
    }

    fn read_dtcs(&mut self, report: u8, parameters: &[u8]) -> Result<Vec<u8>, Nrc> {
        let &[mask] = parameters else { return Err(Nrc::IncorrectMessageLengthOrInvalidFormat) };
        let stored = if self.dtcs_cleared { &[] } else { self.spec.dtcs.as_slice() };
        let matching: Vec<_> = stored.iter().filter(|dtc| dtc.status & mask != 0).collect();
        let mut answer = vec![0xFF];
        match report {
            // Format 01: ISO 14229-1.
            0x01 => answer.extend([0x01].into_iter().chain((matching.len() as u16).to_be_bytes())),
            0x02 => {
                for dtc in matching {
                    let [_, code @ ..] = dtc.code.to_be_bytes();
                    answer.extend(code.into_iter().chain([dtc.status]));
                }
            }
            _ => return Err(Nrc::SubFunctionNotSupported),
        }
        Ok(answer)
    }

    fn clear_dtcs(&mut self, group: u32) -> Result<(), Nrc> {
        if group != 0xFF_FFFF {
            return Err(Nrc::RequestOutOfRange);
        }
        self.dtcs_cleared = true;
        Ok(())
    }

    fn communication_control(&mut self, control: u8, _: u8) -> Result<(), Nrc> {
        if control > 3 {
            return Err(Nrc::SubFunctionNotSupported);
        }
        // 01 and 03 disable sending.
        self.silent = control & 1 == 1;
        Ok(())
    }

    fn dtc_setting(&mut self, _: bool) -> Result<(), Nrc> {
        Ok(())
    }
}
