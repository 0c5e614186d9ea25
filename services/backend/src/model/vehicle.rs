use pitstop_types::{EcuId, HardwareId, SoftwareVersion, UnixSeconds, Vin};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Bundle;

/// One vehicle of the fleet and the device that speaks for it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vehicle {
    #[schema(value_type = String)]
    pub vin: Vin,
    /// Common name of the current TCU's certificate. A replaced TCU gets a new one; the old certificate then opens nothing.
    pub device: Option<String>,
    /// Key id and public key (PEM) that sign this vehicle's version manifests.
    pub identity_keyid: Option<String>,
    pub identity_pem: Option<String>,
    /// Served with metadata and bundles only while true.
    pub authorised: bool,
    /// Why it is (not) authorised, in the operator's words.
    pub authorised_reason: String,
    pub created_at: UnixSeconds,
    pub provisioned_at: Option<UnixSeconds>,
    /// 0: never.
    pub last_seen: UnixSeconds,
    /// What the broker last said of it.
    pub online: bool,
    /// Highest report counter taken; a manifest must have a higher one.
    pub report_counter: u64,
    pub manifest_at: Option<UnixSeconds>,
    /// The vehicle's own time in that manifest; its time never goes back.
    pub manifest_time: Option<UnixSeconds>,
    /// The last manifest that passed every check, as received.
    pub manifest: Option<String>,
    /// Highest outbox sequence number taken from the current device.
    pub last_seq: u64,
    /// Grows whenever what this vehicle is to do changes.
    pub rev: u64,
}

impl Vehicle {
    /// A vehicle that has been registered and not provisioned.
    pub fn new(vin: Vin, now: UnixSeconds) -> Self {
        Self {
            vin,
            device: None,
            identity_keyid: None,
            identity_pem: None,
            authorised: true,
            authorised_reason: "registered".to_owned(),
            created_at: now,
            provisioned_at: None,
            last_seen: 0,
            online: false,
            report_counter: 0,
            manifest_at: None,
            manifest_time: None,
            manifest: None,
            last_seq: 0,
            rev: 0,
        }
    }
}

/// One ECU of a vehicle, from the inventory given on registration or from its first manifest; versions from the newest manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ecu {
    #[schema(value_type = String)]
    pub ecu: EcuId,
    #[schema(value_type = String)]
    pub hardware: HardwareId,
    pub serial: String,
    pub software_number: String,
    /// None: never reported, or without valid software.
    #[schema(value_type = Option<String>)]
    pub version: Option<SoftwareVersion>,
    /// SHA-256 of the bundle it was installed from, where the vehicle knows it.
    pub image_sha256: Option<String>,
    /// It did not answer when the manifest was made; the version is what it was thought to run, and proves nothing.
    #[serde(default)]
    pub silent: bool,
    /// It was put on the list since the last manifest: nothing is known yet of what it runs.
    #[serde(default)]
    pub unreported: bool,
    pub updated_at: UnixSeconds,
}

impl Ecu {
    /// Does it run `bundle`, as far as its last signed report goes?
    pub fn runs(&self, bundle: &Bundle) -> bool {
        !self.silent
            && self.hardware == bundle.hardware
            && self.version.as_ref() == Some(&bundle.version)
            && self.image_sha256.as_ref().is_none_or(|sha256| *sha256 == bundle.sha256)
    }
}

/// One entry of the vehicle's outbox. Unsigned: it moves an assignment along, but never to success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusItem {
    pub seq: u64,
    #[serde(default)]
    pub update: Option<String>,
    /// Phase of the vehicle's update record.
    #[serde(default)]
    pub phase: String,
    /// How the update ended (`all-new`, `all-old`, ...), once it has.
    #[serde(default)]
    pub result: Option<String>,
    /// Named error, e.g. `io.pitstop.Ota1.Error.NoFallback`.
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub text: Option<String>,
    /// Per ECU, as the vehicle words it.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub ecus: Vec<serde_json::Value>,
    /// Unix seconds by the vehicle's clock.
    #[serde(default)]
    pub at: i64,
    /// What the driver answered, as the vehicle stored it; kept as evidence.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub answers: Vec<serde_json::Value>,
    /// Signed manifest, checked as if it had been sent by itself.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<serde_json::Value>,
}
