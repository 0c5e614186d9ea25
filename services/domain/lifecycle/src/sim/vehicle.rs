//! The demonstration's vehicle, and a decision for it.

use pitstop_types::{
    CampaignId, Decision, Digest, EcuDecision, EcuId, HardwareId, PromptFacts, ReleaseCounter, SlotName, SoftwareRef,
    SoftwareVersion, UpdateId, Vin,
};

use crate::VehicleFacts;
use crate::plan::{EcuFacts, TcuFacts};

/// Old and new software of an ECU of the demonstration.
pub fn software(ecu: &str, version: &str) -> SoftwareRef {
    SoftwareRef {
        name: format!("{ecu}-{version}.raucb"),
        length: 120_000,
        sha256: Digest::of(format!("{ecu} {version}").as_bytes()),
        sha512: None,
        version: SoftwareVersion::new(version).expect("a version"),
        hardware: HardwareId::new(format!("{ecu}-a1")).expect("a hardware id"),
        counter: ReleaseCounter(1),
        manifest_hash: Digest::of(b"manifest"),
    }
}

/// A decision that takes `ecus` from 1.0 to 2.0.
pub fn decision(ecus: &[&str]) -> Decision {
    let part = |ecu: &&str| EcuDecision {
        ecu: EcuId::new(*ecu).expect("an ECU id"),
        target: software(ecu, "2.0"),
        fallback: Some(software(ecu, "1.0")),
    };
    Decision {
        vin: Vin::new("WP0ZZZ99ZTS392124").expect("a VIN"),
        update: UpdateId::new("u-1").expect("an update id"),
        campaign: CampaignId::new("c-1").expect("a campaign id"),
        install_by: 2_000_000,
        facts: PromptFacts {
            purpose: "Better brakes".into(),
            changes: "Brakes".into(),
            expected_secs: 600,
            unavailable: "Driving".into(),
            instructions: "Park".into(),
        },
        conditions: vec![],
        director_targets_version: 1,
        image_targets_version: 1,
        ecus: ecus.iter().map(part).collect(),
    }
}

/// The vehicle of the demonstration: `tcu`, `gateway`, `bcm`, `adas`, `tpms`.
pub fn facts() -> VehicleFacts {
    let ecu = |id: &str, dual_bank, via: Option<&str>| EcuFacts {
        ecu: EcuId::new(id).expect("an ECU id"),
        hardware: HardwareId::new(format!("{id}-a1")).expect("a hardware id"),
        dual_bank,
        via: via.map(|gate| EcuId::new(gate).expect("an ECU id")),
        answers: true,
        version: Some(SoftwareVersion::new("1.0").expect("a version")),
        bytes_per_sec: 30_000,
        trial_limit_secs: None,
    };
    VehicleFacts {
        ecus: vec![
            ecu("gateway", true, None),
            ecu("bcm", false, None),
            ecu("adas", true, None),
            ecu("tpms", false, Some("gateway")),
        ],
        tcu: Some(TcuFacts {
            hardware: HardwareId::new("tcu-a1").expect("a hardware id"),
            booted: SlotName::new("A").expect("a slot"),
            other: SlotName::new("B").expect("a slot"),
            version: Some(SoftwareVersion::new("1.0").expect("a version")),
        }),
    }
}
