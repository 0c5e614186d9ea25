//! The flasher over its real adapters: ISO-TP on the simulator's CAN hub, CAN FD, DoIP, and an ECU behind the gateway.
//! Real time, because sockets carry the bytes; buses, flash and boot run many times faster than real ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Content, Stand, overlay};
use pitstop_ecu_sim::{Options, Software};
use pitstop_flasher::adapters::CanLinks;
use pitstop_flasher::ports::{Links, Role};
use pitstop_flashing::Vehicle;
use pitstop_store::cut::Disk;
use pitstop_types::{EcuId, SoftwareVersion};

const FIRMWARE: u32 = 0x0801_0000;
const IDENTITY: u32 = 0x0800_8000;
const U: &str = "u-1";
const OLD: &str = "1.0.0";
const NEW: &str = "2.0.0";
const ECUS: [&str; 4] = ["adas", "bcm", "gateway", "tpms"];

fn firmware(version: &str) -> Vec<u8> {
    let salt = version.bytes().map(u32::from).sum::<u32>();
    (0..40_000u32).map(|i| (i.wrapping_mul(salt | 1) >> 7) as u8).collect()
}

/// The demonstration's vehicle with small software, and the flasher's description of it.
async fn start(folder: &Path) -> Vehicle {
    let file = folder.join("old.bin");
    std::fs::write(&file, firmware(OLD)).unwrap();
    let software = |ecu: &str| Software {
        file: file.clone(),
        address: FIRMWARE,
        number: format!("PS-{ecu}"),
        version: SoftwareVersion::new(OLD).unwrap(),
        counter: 1,
    };
    let options = Options {
        vehicle: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/ecu-sim/vehicles/demo.toml"),
        hub: folder.join("run/pitstop/hub.sock"),
        listen: "127.0.0.1:0".parse().unwrap(),
        socketcand: None,
        control: None,
        state: None,
        speed: 20.0,
        seed: 1,
        software: ECUS.map(|ecu| (EcuId::new(ecu).unwrap(), software(ecu))).into(),
        erased: Vec::new(),
        faults: Vec::new(),
    };
    std::fs::create_dir_all(folder.join("run/pitstop")).unwrap();
    let ready = pitstop_ecu_sim::start(options).await.expect("a simulated vehicle");
    let text = std::fs::read_to_string(overlay().join("etc/pitstop/vehicle.toml")).unwrap();
    Vehicle::read(&text.replace(":13400", &format!(":{}", ready.port.unwrap()))).unwrap()
}

#[tokio::test]
async fn all_four_ecus_are_flashed_at_once_over_their_own_buses() {
    let folder = tempfile::tempdir().unwrap();
    let vehicle = start(folder.path()).await;
    let links = Arc::new(CanLinks::new(folder.path().to_owned(), &vehicle));
    // The demonstration's ECUs have no 0x27.
    let profiles =
        pitstop_flasher::config::profiles(&overlay().join("usr/lib/pitstop/profiles"), &vehicle, &[]).unwrap();
    let stand = Stand::build(vehicle, profiles, links, Arc::new(Disk::new().storage())).await;
    for ecu in ECUS {
        let content = |version| {
            Content::new(&format!("{ecu}-a1"), &format!("PS-{ecu}"), version, (FIRMWARE, firmware(version)), IDENTITY)
        };
        stand.admit(ecu, Role::Target, content(NEW));
        stand.admit(ecu, Role::Fallback, content(OLD));
    }
    assert_eq!(versions(&stand).await, ECUS.map(|ecu| (ecu.to_owned(), OLD.to_owned())).into());
    let flasher = stand.proxy().await;
    for ecu in ["adas", "gateway"] {
        stand.end(flasher.stage(U, ecu, OLD, 1).await).await.unwrap();
    }
    let mut paths = Vec::new();
    for ecu in ECUS {
        paths.push((ecu, flasher.activate(U, ecu, OLD, 1).await));
    }
    for (ecu, path) in paths {
        stand.end(path).await.unwrap_or_else(|error| panic!("{ecu}: {error:?}"));
    }
    assert_eq!(versions(&stand).await, ECUS.map(|ecu| (ecu.to_owned(), NEW.to_owned())).into());
    for ecu in ["tpms", "bcm", "adas", "gateway"] {
        stand.end(flasher.roll_back(U, ecu, 1).await).await.unwrap_or_else(|error| panic!("{ecu}: {error:?}"));
    }
    assert_eq!(versions(&stand).await, ECUS.map(|ecu| (ecu.to_owned(), OLD.to_owned())).into());
}

#[tokio::test]
async fn an_ecu_for_which_no_tester_address_is_left_is_refused() {
    let text = std::fs::read_to_string(overlay().join("etc/pitstop/vehicle.toml")).unwrap();
    let text = text.replace("link = \"tcp:127.0.0.1:13400\"", "link = \"tcp:127.0.0.1:1\"\ntester = 0xFFFF");
    let vehicle = Vehicle::read(&text).unwrap();
    let profiles =
        pitstop_flasher::config::profiles(&overlay().join("usr/lib/pitstop/profiles"), &vehicle, &[]).unwrap();
    let links = CanLinks::new(Path::new("/nowhere").to_owned(), &vehicle);
    let mut refused = BTreeMap::new();
    for ecu in vehicle.ecus.values() {
        let opened = links.open(&vehicle.buses[&ecu.bus], ecu, &profiles[&ecu.profile]).await;
        refused.insert(ecu.id.as_str(), opened.err().map(|error| error.to_string()));
    }
    let what = refused.remove("tpms").unwrap().expect("a refusal");
    assert!(what.contains("no tester address left for tpms"), "{what}");
    assert_eq!(refused, [("adas", None), ("bcm", None), ("gateway", None)].into());
}

async fn versions(stand: &Stand) -> BTreeMap<String, String> {
    let rows = stand.proxy().await.read_versions(&[]).await.unwrap();
    rows.into_iter().map(|row| (row.ecu, row.version + &row.error_name)).collect()
}
