use proptest::prelude::*;

use super::*;

const GOOD: &str = include_str!("../../../../../rootfs-overlay/etc/pitstop/vehicle.toml");

#[test]
fn the_demonstrations_vehicle_is_read() {
    let vehicle = Vehicle::read(GOOD).expect("shipped file");
    assert_eq!(vehicle.ecus.len(), 4);
    let gateway = EcuId::new("gateway").unwrap();
    assert_eq!(vehicle.behind(&gateway).map(|ecu| ecu.id.as_str()).collect::<Vec<_>>(), ["tpms"]);
    let bcm = &vehicle.ecus[&EcuId::new("bcm").unwrap()];
    assert_eq!(bcm.address, Address::Can { request: 0x7E0, response: 0x7E8, functional: 0x7DF });
    assert_eq!(bcm.banks, Banks::Single);
}

#[test]
fn a_wrong_description_is_refused_with_its_reason() {
    let wrong = [
        ("profile = \"bcm\"", "profle = \"bcm\"", "vehicle description"),
        ("profile = \"bcm\"", "profile = \"../bcm\"", "ECU bcm: profile names are 1 to 32 of a-z, 0-9, - and _"),
        ("request = 0x7E0", "request = 0x7E8", "ECU bcm: its address is another's on the same bus"),
        ("response = 0x7E8", "response = 0x20000000", "ECU bcm: a CAN identifier has 29 bits at most"),
        ("via = \"gateway\"", "via = \"nothing\"", "ECU tpms: its gateway is not listed"),
        ("via = \"gateway\"", "via = \"bcm\"", "ECU tpms: its gateway is on another bus"),
        ("via = \"gateway\"", "via = \"tpms\"", "ECU tpms: its gateway lies behind a gateway itself"),
        ("id = \"bcm\"", "id = \"tcu\"", "ECU tcu: the TCU stands in [tcu], not among the ECUs that are flashed"),
        ("id = \"bcm\"", "id = \"adas\"", "ecu adas stands twice"),
        ("tcp:127.0.0.1:13400", "socketcan:can9", "bus doip0: tcp links are for kind doip and only for it"),
        ("address = 0x1010", "request = 0x10", "ECU tpms: on DoIP it has address and no CAN identifiers"),
    ];
    for (good, bad, reason) in wrong {
        assert!(GOOD.contains(good), "{good}");
        let error = Vehicle::read(&GOOD.replacen(good, bad, 1)).expect_err(bad);
        assert_eq!(error.to_string(), reason, "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_panic(text in ".{0,200}") {
        let _ = Vehicle::read(&text);
    }
}
