//! From the vehicle's rows to what `check_manifest` judges by, and back.

use std::collections::BTreeMap;

use pitstop_types::{EcuId, UnixSeconds};
use pitstop_uptane::manifest::MAX_MANIFEST;
use pitstop_uptane::{EcuVersionReport, Inventory, InventoryEcu, PublicKey, Time};
use serde_json::Value;

use crate::model::{Ecu, Vehicle};

/// The inventory of a vehicle. Where no ECU was named on registration, the first manifest names them: it is signed by the key of
/// the device that was provisioned for this VIN, and from then on the list is fixed.
pub(super) fn of(vehicle: &Vehicle, ecus: &[Ecu], bytes: &[u8]) -> Result<Inventory, (&'static str, String)> {
    let key = vehicle.identity_pem.as_deref().ok_or(("Signature", "no identity key is registered".to_owned()))?;
    let key = PublicKey::from_p256_pem(key).map_err(|error| ("Signature", error.to_string()))?;
    let known: BTreeMap<EcuId, InventoryEcu> = ecus
        .iter()
        .map(|ecu| (ecu.ecu.clone(), InventoryEcu { hardware: Some(ecu.hardware.clone()), key: None }))
        .collect();
    let known = if known.is_empty() { named_in(bytes)? } else { known };
    Ok(Inventory {
        vin: vehicle.vin.clone(),
        primary: EcuId::tcu(),
        key,
        ecus: known,
        last_counter: vehicle.report_counter,
        last_time: vehicle.manifest_time.and_then(|time| Time::from_unix(time).ok()),
    })
}

/// ECU ids that a manifest names, before anything in it is believed.
fn named_in(bytes: &[u8]) -> Result<BTreeMap<EcuId, InventoryEcu>, (&'static str, String)> {
    let bad = |text: String| ("Malformed", text);
    if bytes.len() > MAX_MANIFEST {
        return Err(bad(format!("the manifest has {} bytes, at most {MAX_MANIFEST} are read", bytes.len())));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let reports = value.pointer("/signed/ecu_version_manifests").and_then(Value::as_object);
    let reports = reports.ok_or_else(|| bad("the manifest has no ECU reports".to_owned()))?;
    let mut named = BTreeMap::new();
    for name in reports.keys() {
        let id = EcuId::new(name.as_str()).map_err(|error| bad(error.to_string()))?;
        named.insert(id, InventoryEcu { hardware: None, key: None });
    }
    Ok(named)
}

/// An ECU's row from its checked report.
pub(super) fn ecu_of(report: &EcuVersionReport, now: UnixSeconds) -> Ecu {
    Ecu {
        ecu: report.ecu_serial.clone(),
        hardware: report.hardware_id.clone(),
        serial: report.part_serial.clone(),
        software_number: report.software_number.clone(),
        version: report.version.clone(),
        image_sha256: report.installed_image.as_ref().map(|image| image.fileinfo.hashes.sha256.to_string()),
        silent: report.not_responding,
        unreported: false,
        updated_at: now,
    }
}
