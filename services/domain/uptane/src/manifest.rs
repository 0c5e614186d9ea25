//! The vehicle version manifest: what the vehicle says it runs, signed.
//!
//! Each ECU's report stands in an envelope of its own. ECUs of this vehicle have no key, so the Primary (the TCU) reports for them
//! and its signature over the whole covers their reports; an ECU that the Director's inventory knows a key of must sign its own.

use std::collections::BTreeMap;

use pitstop_types::{Digest, EcuId, HardwareId, SoftwareVersion, UnixSeconds, Vin};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::envelope::{EnvelopeError, sign_payload};
use crate::{Envelope, PublicKey, SignError, Signer, Time, Verified};

/// Largest manifest that is read, in bytes: 64 ECUs with a generous kibibyte each.
pub const MAX_MANIFEST: usize = 64 * 1024;
/// How far a vehicle's clock may be ahead of the Director's, in seconds. A day covers a TCU that free-runs while parked.
pub const MAX_CLOCK_AHEAD: i64 = 86_400;
const MAX_ECUS: usize = 64;
const MAX_TEXT: usize = 128;

/// What is installed on one ECU, where the vehicle knows the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledImage {
    pub filepath: String,
    pub fileinfo: FileInfo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub length: u64,
    pub hashes: InstalledHashes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledHashes {
    pub sha256: Digest,
}

impl InstalledImage {
    pub fn new(filepath: &str, length: u64, sha256: Digest) -> Self {
        let fileinfo = FileInfo { length, hashes: InstalledHashes { sha256 } };
        Self { filepath: filepath.to_owned(), fileinfo }
    }
}

/// One ECU's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcuVersionReport {
    /// The ECU as the Director names it.
    pub ecu_serial: EcuId,
    pub hardware_id: HardwareId,
    /// Serial number of the part, DID F18C.
    pub part_serial: String,
    /// DID F188.
    pub software_number: String,
    /// DID F189; null when the ECU runs its bootloader only.
    pub version: Option<SoftwareVersion>,
    /// It did not answer when it was asked; the rest is then what is known of it otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_responding: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_image: Option<InstalledImage>,
    /// Name of the last refusal, empty if there was none since the last manifest.
    #[serde(default)]
    pub attacks_detected: String,
    /// The vehicle's latest verified time; null when it has none.
    pub time: Option<Time>,
    /// Changes with every manifest; a text, as other Uptane clients write it.
    #[serde(with = "counter")]
    pub report_counter: u64,
}

/// The whole vehicle's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VehicleManifest {
    pub vin: Vin,
    pub primary_ecu_serial: EcuId,
    #[serde(with = "counter")]
    pub report_counter: u64,
    pub time: Option<Time>,
    pub ecu_version_manifests: BTreeMap<EcuId, Value>,
    /// Outcome of the last installation, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation_report: Option<Value>,
}

/// A counter as decimal text.
mod counter {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value: u64 = text.parse().map_err(|_| D::Error::custom("the report counter is no number"))?;
        // "+1" and "01" would be a second spelling.
        if value.to_string() == text { Ok(value) } else { Err(D::Error::custom("the report counter is oddly spelt")) }
    }
}

/// Puts a manifest together from the ECUs' reports.
#[derive(Debug, Clone)]
pub struct ManifestBuilder {
    manifest: VehicleManifest,
}

impl ManifestBuilder {
    /// `counter` must be larger than in any manifest made before, durably.
    pub fn new(vin: Vin, primary: EcuId, counter: u64, time: Option<Time>) -> Self {
        let manifest = VehicleManifest {
            vin,
            primary_ecu_serial: primary,
            report_counter: counter,
            time,
            ecu_version_manifests: BTreeMap::new(),
            installation_report: None,
        };
        Self { manifest }
    }

    /// Adds the report of an ECU without a key. Time and counter are the manifest's.
    pub fn report(&mut self, mut report: EcuVersionReport) {
        report.time = self.manifest.time;
        report.report_counter = self.manifest.report_counter;
        let ecu = report.ecu_serial.clone();
        self.manifest.ecu_version_manifests.insert(ecu, json!({ "signatures": [], "signed": report }));
    }

    /// Adds a report that an ECU has signed itself, as it came.
    pub fn signed_report(&mut self, ecu: EcuId, envelope: Value) {
        self.manifest.ecu_version_manifests.insert(ecu, envelope);
    }

    pub fn installation_report(&mut self, report: Value) {
        self.manifest.installation_report = Some(report);
    }

    /// Signs with the Primary's identity key.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let bytes = sign_payload(&self.manifest, &[signer])?;
        if bytes.len() > MAX_MANIFEST {
            return Err(SignError::Refused("the manifest is too large".to_owned()));
        }
        Ok(bytes)
    }
}

/// What the Director knows of a vehicle.
#[derive(Debug, Clone)]
pub struct Inventory {
    pub vin: Vin,
    pub primary: EcuId,
    /// The Primary's identity key, from provisioning.
    pub key: PublicKey,
    /// All ECUs, the Primary among them.
    pub ecus: BTreeMap<EcuId, InventoryEcu>,
    /// Counter of the last manifest that was accepted.
    pub last_counter: u64,
    /// Time in the last manifest that was accepted.
    pub last_time: Option<Time>,
}

/// One ECU of the inventory.
#[derive(Debug, Clone)]
pub struct InventoryEcu {
    /// `None`: not known yet, taken from the first report.
    pub hardware: Option<HardwareId>,
    /// An ECU with a key must sign its own report.
    pub key: Option<PublicKey>,
}

/// Why the Director drops a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    #[error("the manifest is not signed by the vehicle's identity key")]
    Signature,
    #[error("the manifest is another vehicle's")]
    OtherVehicle,
    #[error("the manifest names another Primary")]
    Primary,
    #[error("report counter {counter} is not above the last one, {last}: a replay")]
    Replay { counter: u64, last: u64 },
    #[error("the manifest's time is before the last one's, or too far ahead")]
    Time,
    #[error("ECU {0} is not in the manifest")]
    EcuMissing(EcuId),
    #[error("ECU {0} is not in this vehicle's inventory")]
    EcuUnknown(EcuId),
    #[error("ECU {0}: its report is not signed by its key")]
    EcuSignature(EcuId),
    #[error("ECU {0}: it reports hardware {1}, the inventory has {2}")]
    EcuHardware(EcuId, HardwareId, HardwareId),
    #[error("ECU {0}: its report belongs to another ECU or another manifest")]
    EcuConfusion(EcuId),
}

impl ManifestError {
    /// Stable name, one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "Malformed",
            Self::Signature => "Signature",
            Self::OtherVehicle => "OtherVehicle",
            Self::Primary => "Primary",
            Self::Replay { .. } => "Replay",
            Self::Time => "Time",
            Self::EcuMissing(_) => "EcuMissing",
            Self::EcuUnknown(_) => "EcuUnknown",
            Self::EcuSignature(_) => "EcuSignature",
            Self::EcuHardware(..) => "EcuHardware",
            Self::EcuConfusion(_) => "EcuConfusion",
        }
    }
}

/// A manifest that was checked, with its ECUs' reports read.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedManifest {
    pub manifest: VehicleManifest,
    pub reports: BTreeMap<EcuId, EcuVersionReport>,
}

/// The Director's checks (Uptane standard, "Directing installation of images on vehicles", steps 3 and 4): signature, vehicle,
/// counter, time, every ECU of the inventory present and none besides. The caller stores the counter and time before it acts.
pub fn check_manifest(
    bytes: &[u8],
    inventory: &Inventory,
    now: UnixSeconds,
) -> Result<Verified<CheckedManifest>, ManifestError> {
    let envelope = Envelope::parse(bytes, MAX_MANIFEST).map_err(|error| match error {
        EnvelopeError::Unsigned => ManifestError::Signature,
        other => ManifestError::Malformed(other.to_string()),
    })?;
    if envelope.count([&inventory.key]) != 1 {
        return Err(ManifestError::Signature);
    }
    let manifest: VehicleManifest = read(envelope.signed())?;
    check_head(&manifest, inventory, now)?;
    let reports = check_reports(&manifest, inventory)?;
    Ok(Verified::new(CheckedManifest { manifest, reports }))
}

fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T, ManifestError> {
    T::deserialize(value).map_err(|error| ManifestError::Malformed(error.to_string()))
}

fn check_head(manifest: &VehicleManifest, inventory: &Inventory, now: UnixSeconds) -> Result<(), ManifestError> {
    if manifest.vin != inventory.vin {
        return Err(ManifestError::OtherVehicle);
    }
    if manifest.primary_ecu_serial != inventory.primary {
        return Err(ManifestError::Primary);
    }
    if manifest.report_counter <= inventory.last_counter {
        return Err(ManifestError::Replay { counter: manifest.report_counter, last: inventory.last_counter });
    }
    // A vehicle that does not know the time may still report; it cannot be given anything, and so learns why.
    if let Some(time) = manifest.time
        && (inventory.last_time.is_some_and(|last| time < last) || time.unix() > now.saturating_add(MAX_CLOCK_AHEAD))
    {
        return Err(ManifestError::Time);
    }
    Ok(())
}

fn check_reports(
    manifest: &VehicleManifest,
    inventory: &Inventory,
) -> Result<BTreeMap<EcuId, EcuVersionReport>, ManifestError> {
    let given = &manifest.ecu_version_manifests;
    if given.len() > MAX_ECUS {
        return Err(ManifestError::Malformed(format!("{} ECUs, at most {MAX_ECUS} are read", given.len())));
    }
    if let Some(ecu) = inventory.ecus.keys().find(|ecu| !given.contains_key(ecu)) {
        return Err(ManifestError::EcuMissing(ecu.clone()));
    }
    let mut reports = BTreeMap::new();
    for (ecu, value) in given {
        let Some(known) = inventory.ecus.get(ecu) else { return Err(ManifestError::EcuUnknown(ecu.clone())) };
        let report = check_report(ecu, known, value)?;
        if report.report_counter != manifest.report_counter && known.key.is_none() {
            return Err(ManifestError::EcuConfusion(ecu.clone()));
        }
        reports.insert(ecu.clone(), report);
    }
    Ok(reports)
}

fn check_report(ecu: &EcuId, known: &InventoryEcu, value: &Value) -> Result<EcuVersionReport, ManifestError> {
    let signed = value.get("signed").ok_or_else(|| ManifestError::Malformed(format!("ECU {ecu}: no report")))?;
    if let Some(key) = &known.key {
        let bytes = serde_json::to_vec(value).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        let envelope = Envelope::parse(&bytes, MAX_MANIFEST).map_err(|_| ManifestError::EcuSignature(ecu.clone()))?;
        if envelope.count([key]) != 1 {
            return Err(ManifestError::EcuSignature(ecu.clone()));
        }
    }
    let report: EcuVersionReport = read(signed)?;
    if report.ecu_serial != *ecu {
        return Err(ManifestError::EcuConfusion(ecu.clone()));
    }
    if [&report.part_serial, &report.software_number, &report.attacks_detected].iter().any(|text| text.len() > MAX_TEXT)
    {
        return Err(ManifestError::Malformed(format!("ECU {ecu}: a text of more than {MAX_TEXT} bytes")));
    }
    match &known.hardware {
        Some(hardware) if *hardware != report.hardware_id => {
            Err(ManifestError::EcuHardware(ecu.clone(), report.hardware_id, hardware.clone()))
        }
        _ => Ok(report),
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
