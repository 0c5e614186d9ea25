use pitstop_flashing::{HexBytes, Profile, Vehicle};

/// The vehicle's description, an ECU's profile, and byte strings as both have them.
pub fn description(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = Vehicle::read(text);
    let _ = Profile::read(text);
    if let Ok(bytes) = HexBytes::parse(text) {
        assert_eq!(HexBytes::parse(&bytes.to_string()), Ok(bytes), "written and read again it is another");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        include_str!("../../qemu/config/vehicle.toml"),
        include_str!("../../rootfs-overlay/usr/lib/pitstop/profiles/bcm.toml"),
        include_str!("../../rootfs-overlay/usr/lib/pitstop/profiles/gateway.toml"),
        "01 FF a5",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
