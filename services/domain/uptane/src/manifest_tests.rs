use super::*;
use crate::{MemorySigner, Scheme};

const NOW: i64 = 1_795_000_000;

fn id(name: &str) -> EcuId {
    EcuId::new(name).unwrap()
}

fn report(ecu: &str) -> EcuVersionReport {
    EcuVersionReport {
        ecu_serial: id(ecu),
        hardware_id: HardwareId::new(format!("{ecu}-a1")).unwrap(),
        part_serial: "S1".into(),
        software_number: "PS-1".into(),
        version: Some(SoftwareVersion::new("1.0.0").unwrap()),
        not_responding: false,
        installed_image: Some(InstalledImage::new("bcm/1.0.0.raucb", 5, Digest::of(b"x"))),
        attacks_detected: String::new(),
        time: None,
        report_counter: 0,
    }
}

fn vin() -> Vin {
    Vin::new("WP0ZZZ99ZTS392124").unwrap()
}

fn manifest(counter: u64, ecus: &[&str]) -> ManifestBuilder {
    let mut builder = ManifestBuilder::new(vin(), EcuId::tcu(), counter, Some(Time::from_unix(NOW).unwrap()));
    for ecu in ecus {
        builder.report(report(ecu));
    }
    builder
}

fn inventory(key: &MemorySigner) -> Inventory {
    let ecu = |name: &str| {
        (id(name), InventoryEcu { hardware: Some(HardwareId::new(format!("{name}-a1")).unwrap()), key: None })
    };
    Inventory {
        vin: vin(),
        primary: EcuId::tcu(),
        key: key.public().clone(),
        ecus: BTreeMap::from([ecu("tcu"), ecu("bcm")]),
        last_counter: 6,
        last_time: Some(Time::from_unix(NOW - 1).unwrap()),
    }
}

fn key() -> MemorySigner {
    MemorySigner::generate(Scheme::EcdsaP256).unwrap()
}

fn refusal(bytes: &[u8], inventory: &Inventory) -> &'static str {
    check_manifest(bytes, inventory, NOW).unwrap_err().name()
}

#[test]
fn a_good_manifest_is_taken_and_read() {
    let key = key();
    let bytes = manifest(7, &["tcu", "bcm"]).sign(&key).unwrap();
    let checked = check_manifest(&bytes, &inventory(&key), NOW).unwrap();
    assert_eq!(checked.reports.len(), 2);
    assert_eq!(checked.reports[&id("bcm")].report_counter, 7);
    assert_eq!(checked.manifest.time, checked.reports[&id("tcu")].time);
}

#[test]
fn each_check_of_the_director_refuses_by_name() {
    let key = key();
    let known = inventory(&key);
    let good = manifest(7, &["tcu", "bcm"]);
    let bytes = good.sign(&key).unwrap();
    assert_eq!(refusal(&good.sign(&self::key()).unwrap(), &known), "Signature");
    assert_eq!(refusal(&sign_payload(&good.manifest, &[]).unwrap(), &known), "Signature");
    assert_eq!(refusal(&manifest(6, &["tcu", "bcm"]).sign(&key).unwrap(), &known), "Replay");
    assert_eq!(refusal(&manifest(7, &["tcu"]).sign(&key).unwrap(), &known), "EcuMissing");
    assert_eq!(refusal(&manifest(7, &["tcu", "bcm", "adas"]).sign(&key).unwrap(), &known), "EcuUnknown");
    let other = Inventory { vin: Vin::new("WP0ZZZ99ZTS392125").unwrap(), ..known.clone() };
    assert_eq!(refusal(&bytes, &other), "OtherVehicle");
    assert_eq!(refusal(&bytes, &Inventory { primary: id("gateway"), ..known.clone() }), "Primary");
    let later = Some(Time::from_unix(NOW + 1).unwrap());
    assert_eq!(refusal(&bytes, &Inventory { last_time: later, ..known.clone() }), "Time");
    assert_eq!(check_manifest(&bytes, &known, NOW - MAX_CLOCK_AHEAD - 1), Err(ManifestError::Time));
    assert_eq!(refusal(&vec![b' '; MAX_MANIFEST + 1], &known), "Malformed");
    let mut swapped = known.clone();
    swapped.ecus.get_mut(&id("bcm")).unwrap().hardware = Some(HardwareId::new("bcm-b2").unwrap());
    assert_eq!(refusal(&bytes, &swapped), "EcuHardware");
}

#[test]
fn a_report_moved_to_another_ecu_or_taken_from_an_older_manifest_is_refused() {
    let key = key();
    let old = manifest(5, &["tcu", "bcm"]).manifest.ecu_version_manifests[&id("bcm")].clone();
    let mut stale = manifest(7, &["tcu"]);
    stale.signed_report(id("bcm"), old);
    assert_eq!(refusal(&stale.sign(&key).unwrap(), &inventory(&key)), "EcuConfusion");
    let mut moved = manifest(7, &["tcu"]);
    let tcu = moved.manifest.ecu_version_manifests[&id("tcu")].clone();
    moved.signed_report(id("bcm"), tcu);
    assert_eq!(refusal(&moved.sign(&key).unwrap(), &inventory(&key)), "EcuConfusion");
}

#[test]
fn an_ecu_with_a_key_must_sign_its_own_report() {
    let (key, ecu_key) = (key(), MemorySigner::generate(Scheme::Ed25519).unwrap());
    let mut known = inventory(&key);
    known.ecus.get_mut(&id("bcm")).unwrap().key = Some(ecu_key.public().clone());
    assert_eq!(refusal(&manifest(7, &["tcu", "bcm"]).sign(&key).unwrap(), &known), "EcuSignature");
    let own = sign_payload(&report("bcm"), &[&ecu_key]).unwrap();
    let mut builder = manifest(7, &["tcu"]);
    builder.signed_report(id("bcm"), serde_json::from_slice(&own).unwrap());
    assert!(check_manifest(&builder.sign(&key).unwrap(), &known, NOW).is_ok());
}

#[test]
fn no_flipped_byte_of_a_manifest_is_accepted() {
    let key = key();
    let (bytes, known) = (manifest(7, &["tcu", "bcm"]).sign(&key).unwrap(), inventory(&key));
    for index in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[index] ^= 0x01;
        // A flip may hit what no signature covers only where it spells the same signature or changes an ignored name.
        assert!(check_manifest(&bad, &known, NOW).is_err(), "byte {index}");
    }
}
