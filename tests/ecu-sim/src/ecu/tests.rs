use std::sync::Arc;

use pitstop_bundle::IdentityBlock;
use pitstop_types::{ReleaseCounter, SoftwareVersion, Vin};

use super::*;
use crate::flash::Flash;
use crate::vehicle::{Address, Banks, EcuSpec, Memory, Security};

const MS: Duration = Duration::from_millis(1);
const ME: ClientId = ClientId(7);
const IDENTITY: u32 = 0x1000;
const FIRMWARE: u32 = 0x1100;

fn spec(banks: Banks, security: Security) -> EcuSpec {
    EcuSpec {
        id: "bcm".parse().unwrap(),
        hardware: "bcm-a1".parse().unwrap(),
        serial: "S1".into(),
        boot_software: "BOOT-1".into(),
        address: Address::Can { bus: "can0".parse().unwrap(), request: 0x7E0, response: 0x7E8 },
        banks,
        memory: Memory {
            base: 0x1000,
            size: 0x1000,
            sector: 0x100,
            identity: IDENTITY,
            erase_ms_per_kib: 400.0,
            write_ms_per_kib: 1.0,
        },
        boot_ms: 300,
        max_block: 258,
        frames_per_block: 0,
        security,
        trial_starts: 2,
        software: None,
        dtcs: vec![],
        broadcasts: vec![],
        drive_inhibit: false,
    }
}

fn identity(version: &str) -> [u8; 64] {
    let version = SoftwareVersion::new(version).unwrap();
    IdentityBlock { software_number: "PS-1".into(), version, counter: ReleaseCounter(1) }.write().unwrap()
}

struct Bench {
    ecu: SimEcu,
    now: Monotonic,
}

impl Bench {
    fn new(banks: Banks) -> Self {
        Self::with(banks, Security::None)
    }

    fn with(banks: Banks, security: Security) -> Self {
        let spec = Arc::new(spec(banks, security));
        let mut flash = Flash::blank(spec.memory.clone(), banks);
        flash.load(0, IDENTITY.into(), &identity("1.0.0")).unwrap();
        flash.load(0, FIRMWARE.into(), &[0x11; 64]).unwrap();
        flash.change_boot(|boot| boot.complete[0] = true).unwrap();
        let vin = Vin::new("WP0ZZZ99ZTS392124").unwrap();
        Self { ecu: SimEcu::new(Content::new(spec, vin, flash, 1.0, 1)), now: Duration::ZERO }
    }

    /// Asks and lets the time run until the final answer, or until nothing can come any more.
    fn ask(&mut self, pdu: &[u8]) -> Option<Vec<u8>> {
        self.now += MS;
        self.ecu.handle_request(self.now, ME, Addressing::Physical, pdu);
        for _ in 0..1000 {
            while let Some(output) = self.ecu.poll_output() {
                if let Output::Pdu { pdu, .. } = output
                    && pdu.get(2) != Some(&0x78)
                {
                    return Some(pdu);
                }
            }
            self.ecu.content().job_due()?;
            self.now = self.ecu.poll_timeout()?.max(self.now);
            self.ecu.handle_timeout(self.now);
        }
        panic!("no end");
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.ecu.handle_timeout(self.now);
    }

    fn version(&mut self) -> Option<String> {
        let answer = self.ask(&[0x22, 0xF1, 0x89])?;
        let text = answer.strip_prefix(&[0x62, 0xF1, 0x89])?;
        Some(String::from_utf8(text.to_vec()).unwrap())
    }

    fn routine(&mut self, routine: u16, option: &[u8]) -> u8 {
        let answer = self.ask(&[&[0x31, 0x01], &routine.to_be_bytes()[..], option].concat()).unwrap();
        assert_eq!(answer[..2], [0x71, 0x01], "routine {routine:04X}: {answer:02X?}");
        answer[4]
    }

    fn erase(&mut self, address: u32, size: u32) {
        let option = [&[0x44][..], &address.to_be_bytes(), &size.to_be_bytes()].concat();
        assert_eq!(self.routine(0xFF00, &option), 0);
    }

    fn check(&mut self, address: u32, data: &[u8]) -> u8 {
        let crc = crc32fast::hash(data).to_be_bytes();
        let option = [&address.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &crc].concat();
        self.routine(0x0202, &option)
    }

    fn download(&mut self, address: u32, data: &[u8]) {
        let size = (data.len() as u32).to_be_bytes();
        let answer = self.ask(&[&[0x34, 0, 0x44][..], &address.to_be_bytes(), &size].concat()).unwrap();
        assert_eq!(answer, [0x74, 0x20, 0x01, 0x02]);
        for (index, block) in data.chunks(256).enumerate() {
            let counter = index as u8 + 1;
            assert_eq!(self.ask(&[&[0x36, counter], block].concat()), Some(vec![0x76, counter]));
        }
        assert_eq!(self.ask(&[0x37]), Some(vec![0x77]));
    }

    /// Everything a flash tool does between the programming session and the reset.
    fn flash(&mut self, version: &str) -> (u8, u8) {
        let firmware = vec![0x22; 700];
        self.erase(IDENTITY, 0x100);
        self.erase(FIRMWARE, 0x300);
        self.download(FIRMWARE, &firmware);
        self.download(IDENTITY, &identity(version));
        (self.check(FIRMWARE, &firmware), self.routine(0xFF01, &[]))
    }

    fn reset(&mut self) {
        assert_eq!(self.ask(&[0x11, 0x01]), Some(vec![0x51, 0x01]));
        assert_eq!(self.ask(&[0x3E, 0x00]), None, "an ECU that boots is silent");
        self.wait(300 * MS);
    }
}

#[test]
fn a_single_bank_ecu_is_overwritten_by_its_loader() {
    let mut bench = Bench::new(Banks::Single);
    assert_eq!(bench.version().as_deref(), Some("1.0.0"));
    assert!(bench.ecu.broadcasts());
    bench.ask(&[0x10, 0x03]).unwrap();
    assert_eq!(bench.ask(&[0x31, 0x01, 0xFF, 0x01]), Some(vec![0x7F, 0x31, 0x31]), "only the loader programs");
    bench.ask(&[0x10, 0x02]).unwrap();
    assert!(!bench.ecu.broadcasts(), "the loader sends no signals");
    assert_eq!(bench.version(), None);
    assert_eq!(bench.flash("1.1.0"), (0, 0));
    bench.reset();
    assert_eq!(bench.version().as_deref(), Some("1.1.0"));
}

#[test]
fn half_written_software_leaves_the_ecu_in_its_loader() {
    let mut bench = Bench::new(Banks::Single);
    bench.ask(&[0x10, 0x02]).unwrap();
    bench.erase(FIRMWARE, 0x300);
    bench.reset();
    assert_eq!((bench.ecu.state(), bench.version()), ("loader", None));
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.flash("1.0.0"), (0, 0));
    bench.ask(&[0x10, 0x01]).unwrap();
    bench.wait(300 * MS);
    assert_eq!(bench.version().as_deref(), Some("1.0.0"), "leaving the loader's session starts the software");
}

#[test]
fn silence_ends_the_loaders_session_and_starts_the_software() {
    let mut bench = Bench::new(Banks::Single);
    bench.ask(&[0x10, 0x02]).unwrap();
    bench.wait(5000 * MS);
    bench.wait(300 * MS);
    assert_eq!(bench.version().as_deref(), Some("1.0.0"));
}

#[test]
fn a_dual_bank_ecu_tries_its_new_bank_and_keeps_or_leaves_it() {
    let mut bench = Bench::new(Banks::Dual);
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.version().as_deref(), Some("1.0.0"), "it works on while it is written");
    assert_eq!(bench.routine(0xF010, &[]), 1, "there is nothing to activate");
    assert_eq!(bench.flash("2.0.0"), (0, 0));
    assert_eq!(bench.routine(0xF010, &[]), 0);
    assert_eq!(bench.routine(0xF010, &[]), 0, "asked twice");
    assert_eq!(bench.version().as_deref(), Some("1.0.0"), "a bank changes at the next start");
    bench.reset();
    assert_eq!(bench.version().as_deref(), Some("2.0.0"));
    bench.ask(&[0x10, 0x02]).unwrap();
    let erase = [&[0x31, 0x01, 0xFF, 0x00, 0x44][..], &IDENTITY.to_be_bytes(), &[0, 0, 1, 0]].concat();
    assert_eq!(bench.ask(&erase), Some(vec![0x7F, 0x31, 0x22]), "the way back is kept while on trial");
    assert_eq!(bench.routine(0xF012, &[]), 0);
    assert_eq!(bench.routine(0xF012, &[]), 0, "asked twice");
    bench.reset();
    assert_eq!(bench.version().as_deref(), Some("1.0.0"));
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.routine(0xF010, &[]), 0);
    bench.reset();
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.routine(0xF011, &[]), 0);
    for _ in 0..4 {
        bench.reset();
        assert_eq!(bench.version().as_deref(), Some("2.0.0"));
    }
}

#[test]
fn a_trial_that_is_never_kept_ends_by_itself() {
    let mut bench = Bench::new(Banks::Dual);
    bench.ask(&[0x10, 0x02]).unwrap();
    bench.flash("2.0.0");
    bench.routine(0xF010, &[]);
    for expected in ["2.0.0", "2.0.0", "1.0.0", "1.0.0"] {
        bench.reset();
        assert_eq!(bench.version().as_deref(), Some(expected));
    }
}

#[test]
fn bank_status_names_both_banks() {
    let mut bench = Bench::new(Banks::Dual);
    bench.ask(&[0x10, 0x03]).unwrap();
    let status = bench.ask(&[0x31, 0x03, 0xF0, 0x13]).unwrap();
    assert_eq!(status.len(), 4 + 2 + 48);
    assert_eq!(status[4..11], *b"\0\x001.0.0");
    assert_eq!(status[30..], [0; 24]);
}

#[test]
fn a_rejecting_ecu_still_takes_back_what_it_ran() {
    let mut bench = Bench::new(Banks::Single);
    bench.ecu.add_fault(Fault::RejectCheck { left: None });
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.flash("1.1.0"), (1, 1));
    bench.erase(IDENTITY, 0x400);
    bench.download(IDENTITY, &identity("1.0.0"));
    bench.download(FIRMWARE, &[0x11; 64]);
    assert_eq!(bench.check(FIRMWARE, &[0x11; 64]), 0);
    assert_eq!(bench.check(IDENTITY, &identity("1.0.0")), 0);
    assert_eq!(bench.routine(0xFF01, &[]), 0);
    bench.reset();
    assert_eq!(bench.version().as_deref(), Some("1.0.0"));
}

#[test]
fn an_ecu_that_rejects_once_accepts_the_same_memory_afterwards() {
    let mut bench = Bench::new(Banks::Single);
    bench.ecu.add_fault("reject-check:1".parse().unwrap());
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.flash("1.1.0").0, 1);
    bench.erase(IDENTITY, 0x400);
    assert_eq!(bench.flash("1.1.0"), (0, 0));
}

#[test]
fn an_ecu_that_restarts_in_a_transfer_stays_in_its_loader() {
    let mut bench = Bench::new(Banks::Single);
    bench.ask(&[0x10, 0x02]).unwrap();
    bench.erase(FIRMWARE, 0x300);
    bench.ask(&[0x34, 0, 0x44, 0, 0, 0x11, 0, 0, 0, 2, 0]).unwrap();
    bench.ecu.add_fault("reset:36:2".parse().unwrap());
    assert!(bench.ask(&[&[0x36, 1][..], &[0; 256]].concat()).is_some());
    assert_eq!(bench.ask(&[&[0x36, 2][..], &[0; 256]].concat()), None);
    bench.wait(300 * MS);
    assert_eq!(bench.ecu.state(), "loader");
}

#[test]
fn an_erase_takes_its_time_and_says_so() {
    let mut bench = Bench::new(Banks::Dual);
    bench.ask(&[0x10, 0x02]).unwrap();
    let start = bench.now;
    bench.erase(FIRMWARE, 0x400);
    assert!(bench.now >= start + 400 * MS);
    let option = [&[0x31, 0x01, 0xFF, 0x00, 0x44][..], &FIRMWARE.to_be_bytes(), &[0, 0, 4, 0]].concat();
    bench.ecu.handle_request(bench.now, ME, Addressing::Physical, &option);
    bench.wait(31 * MS);
    let pending = Output::Pdu { client: ME, pdu: vec![0x7F, 0x31, 0x78] };
    assert_eq!(bench.ecu.poll_output(), Some(pending));
}

#[test]
fn programming_needs_the_key_where_there_is_one() {
    let security = Security::Sha256 { level: 0x11, secret: "00112233".into() };
    let mut bench = Bench::with(Banks::Dual, security);
    bench.ask(&[0x10, 0x02]).unwrap();
    assert_eq!(bench.ask(&[0x31, 0x01, 0xFF, 0x01]), Some(vec![0x7F, 0x31, 0x33]));
    let seed = bench.ask(&[0x27, 0x11]).unwrap();
    let digest = pitstop_types::Digest::of(&[&[0, 0x11, 0x22, 0x33, 0x11], &seed[2..]].concat());
    let key = [&[0x27, 0x12], &digest.as_bytes()[..16]].concat();
    assert_eq!(bench.ask(&key), Some(vec![0x67, 0x12]));
    assert_eq!(bench.ask(&[0x31, 0x01, 0xFF, 0x01]), Some(vec![0x71, 0x01, 0xFF, 0x01, 0x01]));
}

#[test]
fn power_off_is_silence_and_power_on_a_start() {
    let mut bench = Bench::new(Banks::Single);
    bench.ecu.set_power(bench.now, false);
    assert_eq!(bench.ask(&[0x3E, 0x00]), None);
    bench.ecu.set_power(bench.now, true);
    bench.wait(300 * MS);
    assert_eq!(bench.version().as_deref(), Some("1.0.0"));
}
