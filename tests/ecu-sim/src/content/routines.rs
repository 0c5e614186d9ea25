//! What the routines do: erase, check, and the boot loader's choice of a bank.

use pitstop_uds::server::Reply;
use pitstop_uds::{AddressAndSize, Nrc, RoutineId};

use super::Content;

/// Routine of a dual-bank ECU: start the written bank at the next reset, on trial.
pub(super) const ACTIVATE: RoutineId = RoutineId(0xF010);
/// Routine: keep the bank on trial for good.
pub(super) const COMMIT: RoutineId = RoutineId(0xF011);
/// Routine: start the bank before the trial at the next reset.
pub(super) const ROLL_BACK: RoutineId = RoutineId(0xF012);
/// Routine: active bank, trial (0 or 1), version of bank 0 and of bank 1 (24 bytes each, zero padded, zeros: none).
pub(super) const BANK_STATUS: RoutineId = RoutineId(0xF013);

pub(super) const PASSED: u8 = 0x00;
const FAILED: u8 = 0x01;

/// Time to check 1 KiB (a CRC in hardware), ms.
const CHECK_MS_PER_KIB: f64 = 0.05;

impl Content {
    pub(super) fn erase(&mut self, option: &[u8]) -> Reply<Vec<u8>> {
        let Some(AddressAndSize { address, size, .. }) = range(option) else {
            return Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat);
        };
        if self.flash.check_erase(address, size).is_err() {
            return Reply::Refused(Nrc::RequestOutOfRange);
        }
        if let Err(nrc) = self.may_program() {
            return Reply::Refused(nrc);
        }
        let erased = self.flash.erase(self.target(), address, size);
        let result = erased.map(|()| vec![PASSED]).map_err(|_| Nrc::GeneralProgrammingFailure);
        self.later(size as f64 / 1024.0 * self.spec.memory.erase_ms_per_kib, result);
        Reply::Later
    }

    /// Option record: address, length and CRC-32, four bytes each.
    pub(super) fn check_memory(&mut self, option: &[u8]) -> Reply<Vec<u8>> {
        let &[a0, a1, a2, a3, l0, l1, l2, l3, c0, c1, c2, c3] = option else {
            return Reply::Refused(Nrc::IncorrectMessageLengthOrInvalidFormat);
        };
        let address = u64::from(u32::from_be_bytes([a0, a1, a2, a3]));
        let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        let crc = u32::from_be_bytes([c0, c1, c2, c3]);
        let Ok(memory) = self.flash.read(self.target(), address, length) else {
            return Reply::Refused(Nrc::RequestOutOfRange);
        };
        let right = crc32fast::hash(memory) == crc;
        let memory = memory.to_vec();
        let accepted = right && self.accepts(address, &memory);
        self.later(length as f64 / 1024.0 * CHECK_MS_PER_KIB, Ok(vec![if accepted { PASSED } else { FAILED }]));
        Reply::Later
    }

    /// Whether memory that is otherwise right passes; counts the times it does not.
    fn accepts(&mut self, address: u64, memory: &[u8]) -> bool {
        let start = (address - u64::from(self.spec.memory.base)) as usize;
        match &mut self.rejects_all_but {
            None | Some((_, Some(0))) => true,
            Some((accepted, _)) if accepted.get(start..start + memory.len()) == Some(memory) => true,
            Some((_, left)) => {
                *left = left.map(|left| left - 1);
                false
            }
        }
    }

    pub(super) fn check_dependencies(&mut self) -> Reply<Vec<u8>> {
        let target = self.target();
        let identity = u64::from(self.spec.memory.identity);
        let block = self.flash.read(target, identity, pitstop_bundle::IDENTITY_LEN as u64).unwrap_or_default().to_vec();
        let good = self.flash.identity(target).is_some() && self.accepts(identity, &block);
        if good && self.flash.boot().complete.get(target) == Some(&false) {
            self.keep(|boot| boot.complete.iter_mut().skip(target).take(1).for_each(|complete| *complete = true));
        }
        Reply::Done(vec![if good { PASSED } else { FAILED }])
    }

    pub(super) fn activate(&mut self) -> Reply<Vec<u8>> {
        let (target, starts) = (self.target(), self.spec.trial_starts);
        if self.flash.boot().active == target {
            return Reply::Done(vec![PASSED]);
        }
        if self.on_trial() {
            return Reply::Refused(Nrc::ConditionsNotCorrect);
        }
        if !self.flash.is_bootable(target) {
            return Reply::Done(vec![FAILED]);
        }
        self.keep(|boot| {
            boot.active = target;
            boot.trial = Some(starts);
        });
        Reply::Done(vec![PASSED])
    }

    pub(super) fn commit(&mut self) -> Reply<Vec<u8>> {
        if self.flash.boot().active != self.running {
            // What is chosen for the next start has not run yet.
            return Reply::Refused(Nrc::ConditionsNotCorrect);
        }
        if self.on_trial() {
            self.keep(|boot| boot.trial = None);
        }
        Reply::Done(vec![PASSED])
    }

    pub(super) fn roll_back(&mut self) -> Reply<Vec<u8>> {
        if !self.on_trial() {
            // Nothing is on trial (any more); asking again changes nothing.
            return Reply::Done(vec![PASSED]);
        }
        let other = 1 - self.flash.boot().active;
        if !self.flash.is_bootable(other) {
            return Reply::Done(vec![FAILED]);
        }
        self.keep(|boot| {
            boot.active = other;
            boot.trial = None;
        });
        Reply::Done(vec![PASSED])
    }

    pub(super) fn bank_status(&self) -> Vec<u8> {
        let mut status = vec![self.running as u8, u8::from(self.on_trial())];
        for bank in 0..2 {
            let version = self.flash.identity(bank).map(|identity| identity.version.as_str().to_owned());
            let text = version.filter(|_| self.flash.is_bootable(bank)).unwrap_or_default();
            status.extend(text.bytes().chain(std::iter::repeat(0)).take(24));
        }
        status
    }
}

/// `alfi address size`.
fn range(option: &[u8]) -> Option<AddressAndSize> {
    // 34's fields have the same form behind their data format byte.
    let request = [&[0x34, 0x00], option].concat();
    match pitstop_uds::Request::decode(&request) {
        Ok(pitstop_uds::Request::RequestDownload { memory, .. }) => Some(memory),
        _ => None,
    }
}
