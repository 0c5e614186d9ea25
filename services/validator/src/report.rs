//! The vehicle version manifest: from what the ECUs say to the signed bytes.

use std::sync::Arc;

use pitstop_dbus::OtaError;
use pitstop_types::{EcuId, UnixSeconds, Vin};
use pitstop_uptane::{EcuVersionReport, InstalledImage, ManifestBuilder, Time};
use serde_json::json;

use crate::approvals::Approvals;
use crate::ports::{EcuReading, Identity};
use crate::refusal;

/// What goes into one manifest beside the readings.
pub(crate) struct Report {
    pub(crate) vin: Vin,
    /// Stored before it came here.
    pub(crate) counter: u64,
    pub(crate) now: Option<UnixSeconds>,
    /// The update this proves, or empty.
    pub(crate) update: String,
    /// Name of the last refusal, or empty.
    pub(crate) attack: String,
}

impl Report {
    /// Signs. Blocks while the key's holder works.
    pub(crate) fn sign(
        self,
        readings: Vec<EcuReading>,
        approvals: &Approvals,
        identity: &Arc<dyn Identity>,
    ) -> Result<Vec<u8>, OtaError> {
        let time = self.now.and_then(|now| Time::from_unix(now).ok());
        let mut builder = ManifestBuilder::new(self.vin, EcuId::tcu(), self.counter, time);
        for reading in readings {
            let attack = if reading.ecu.is_tcu() { self.attack.clone() } else { String::new() };
            builder.report(ecu_report(reading, approvals, attack));
        }
        if !self.update.is_empty() {
            builder.installation_report(json!({ "update": self.update }));
        }
        builder.sign(&**identity).map_err(|error| refusal::signing(&error))
    }
}

fn ecu_report(reading: EcuReading, approvals: &Approvals, attacks_detected: String) -> EcuVersionReport {
    let image = reading.version.as_ref().and_then(|version| approvals.image(&reading.ecu, version));
    EcuVersionReport {
        ecu_serial: reading.ecu,
        hardware_id: reading.hardware,
        part_serial: reading.serial,
        software_number: reading.software_number,
        version: reading.version,
        not_responding: !reading.answered,
        installed_image: image.map(|image| InstalledImage::new(&image.name, image.length, image.sha256)),
        attacks_detected,
        time: None,
        report_counter: 0,
    }
}
