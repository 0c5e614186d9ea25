//! The flasher's interface with no ECU behind it: what is refused, and by which name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use pitstop_dbus::OtaError;
use pitstop_flasher::ports::Role;
use pitstop_runtime::testing;
use pitstop_store::cut::Disk;

async fn stand() -> (Stand, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let stand = Stand::new(vehicle(), Arc::new(NobodyThere(asked.clone())), Arc::new(Disk::new().storage())).await;
    stand.admit("bcm", Role::Target, Content::new("bcm-a1", "PS-BCM-0001", "2.0.0", (0x8000, vec![1; 5000]), 0x1_F000));
    (stand, asked)
}

#[tokio::test(start_paused = true)]
async fn the_object_is_as_the_xml_says() {
    let (stand, _) = stand().await;
    let served = testing::introspect(&stand.client, "/io/pitstop/Ota1/Flasher").await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.Flasher", &served), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_ecus_of_the_vehicle_are_listed() {
    let (stand, _) = stand().await;
    let ecus = stand.proxy().await.list_ecus().await.unwrap();
    let rows: Vec<_> = ecus
        .iter()
        .map(|e| format!("{} {} {} {} {} {}", e.ecu, e.bus, e.address, e.banks, e.hardware, e.via))
        .collect();
    assert_eq!(
        rows,
        [
            "adas can1 0x7E1/0x7E9 dual adas-a1 ",
            "bcm can0 0x7E0/0x7E8 single bcm-a1 ",
            "gateway doip0 0x1001 dual gateway-a1 ",
            "tpms doip0 0x1010 single tpms-a1 gateway",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn malformed_and_unknown_arguments_are_named_errors() {
    let (stand, asked) = stand().await;
    let flasher = stand.proxy().await;
    assert!(matches!(flasher.stage("u-1", "radio", "1.0.0", 1).await, Err(OtaError::UnknownEcu(_))));
    assert!(matches!(flasher.stage("u-1", "tcu", "1.0.0", 1).await, Err(OtaError::UnknownEcu(_))));
    assert!(matches!(flasher.stage("../u", "bcm", "1.0.0", 1).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(flasher.activate("u-1", "../bcm", "1.0.0", 1).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(flasher.activate("u-1", "bcm", "a b", 1).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(flasher.read_versions(&["radio".into()]).await, Err(OtaError::UnknownEcu(_))));
    assert!(matches!(flasher.read_versions(&vec!["bcm".into(); 100]).await, Err(OtaError::InvalidArgument(_))));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_single_bank_ecu_is_staged_and_committed_by_doing_nothing() {
    let (stand, asked) = stand().await;
    let flasher = stand.proxy().await;
    stand.end(flasher.stage("u-1", "bcm", "1.0.0", 1).await).await.unwrap();
    stand.end(flasher.commit("u-1", "bcm", 1).await).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_admitted_or_is_for_other_hardware_is_refused() {
    let (stand, asked) = stand().await;
    let flasher = stand.proxy().await;
    let end = stand.end(flasher.roll_back("u-1", "bcm", 1).await).await;
    assert!(matches!(end, Err(OtaError::NotAdmitted(_))), "{end:?}");
    let mut other = Content::new("bcm-b2", "PS-BCM-0001", "2.0.0", (0x8000, vec![1; 5000]), 0x1_F000);
    stand.admit("bcm", Role::Target, other.clone());
    let end = stand.end(flasher.activate("u-1", "bcm", "1.0.0", 1).await).await;
    assert!(matches!(end, Err(OtaError::BadHardwareId(_))), "{end:?}");
    other.hardware = "bcm-a1".into();
    other.payload[7] ^= 1;
    stand.admit("bcm", Role::Target, other);
    let end = stand.end(flasher.activate("u-1", "bcm", "1.0.0", 2).await).await;
    assert!(matches!(end, Err(OtaError::HashMismatch(_))), "{end:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_absent_ecu_is_named_and_the_same_request_is_the_same_operation() {
    let (stand, _) = stand().await;
    let flasher = stand.proxy().await;
    let path = flasher.activate("u-1", "bcm", "1.0.0", 1).await.unwrap();
    assert_eq!(flasher.activate("u-1", "bcm", "1.0.0", 1).await.unwrap(), path);
    assert!(matches!(flasher.roll_back("u-1", "bcm", 1).await, Err(OtaError::Busy(_))));
    let end = stand.end(Ok(path)).await;
    assert!(matches!(end, Err(OtaError::EcuNotResponding(_))), "{end:?}");
    let rows = flasher.read_versions(&[]).await.unwrap();
    assert!(rows.iter().all(|row| row.error_name == "io.pitstop.Ota1.Error.EcuNotResponding"), "{rows:?}");
}
