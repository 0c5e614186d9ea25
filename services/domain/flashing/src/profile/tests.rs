use proptest::prelude::*;

use super::*;

const BCM: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/bcm.toml");
const ADAS: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/adas.toml");
const GATEWAY: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/gateway.toml");
const TPMS: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/tpms.toml");

fn refusal(text: &str) -> String {
    Profile::read(text).expect_err("refused").to_string()
}

#[test]
fn the_shipped_profiles_are_read() {
    let mut text = String::new();
    for (name, file) in [("adas", ADAS), ("bcm", BCM), ("gateway", GATEWAY), ("tpms", TPMS)] {
        let profile = Profile::read(file).expect(name);
        for job in Job::ALL {
            for step in profile.steps(job) {
                text += &format!("{name} {}: {step}\n", job.as_str());
            }
        }
    }
    insta::assert_snapshot!("shipped_profiles", text);
}

#[test]
fn without_security_nothing_is_unlocked() {
    assert!(Profile::read(BCM).unwrap().install.iter().all(|step| step.kind != StepKind::Unlock));
    let level = |level: &str| {
        let security = format!("kind = \"seed-key\"\nplugin = \"sha256\"\nlevel = {level}\n");
        Profile::read(&BCM.replacen("kind = \"none\"\n", &security, 1))
    };
    assert!(level("0x11").unwrap().install.iter().any(|step| step.kind == StepKind::Unlock));
    assert_eq!(level("0x12").expect_err("even").to_string(), "security.level: odd, from 0x01 to 0x7D");
}

#[test]
fn a_misspelt_key_is_refused_wherever_it_stands() {
    for (good, bad) in [
        ("split_gap", "splitgap"),
        ("reboots", "reboot"),
        ("ms_per_kib", "ms_per_mib"),
        ("lost_signals", "lost_signal"),
    ] {
        assert_eq!(refusal(&BCM.replacen(good, bad, 1)), "profile", "{bad}");
    }
}

#[test]
fn senseless_values_and_steps_are_refused_with_their_reason() {
    let cases = [
        ("format = 1", "format = 2", "profile: format 2 is not known, 1 is"),
        ("sector = 4096", "sector = 4097", "erase.sector: a power of two, at most 256 MiB"),
        ("limit_ms = 60000", "limit_ms = 0", "erase.limit_ms: from 1 ms to half an hour"),
        ("max_block_length = 4095", "max_block_length = 2", "transfer.max_block_length: from 3 bytes to 1 MiB"),
        (
            "{ step = \"unlock\" }",
            "{ step = \"unlock\", bytes = \"00\" }",
            "install step 7: it has a key that belongs to another kind of step",
        ),
        (
            "{ step = \"unlock\" }",
            "{ step = \"request\", bytes = \"36 01 00\" }",
            "install step 7: transfers belong to the write step",
        ),
        ("{ step = \"unlock\" }", "{ step = \"request\" }", "install step 7: it needs bytes"),
        (
            "{ step = \"unlock\" }",
            "{ step = \"write\" }",
            "install: the write step stands once in install and nowhere else",
        ),
        (
            "{ step = \"identify\" }",
            "{ step = \"identify\", optional = true }",
            "install step 2: this kind of step cannot be optional",
        ),
        (
            "{ step = \"identify\" }",
            "{ step = \"identify\", on = false }",
            "install: begins with its session and an identify step",
        ),
        (
            "{ step = \"verify\" }",
            "{ step = \"verify\", on = false }",
            "install: of a single-bank ECU ends with a verify step",
        ),
        (
            "{ step = \"write\" }",
            "{ step = \"write\", addressing = \"functional\" }",
            "install step 9: only session and request steps can be functional",
        ),
    ];
    for (good, bad, reason) in cases {
        assert!(BCM.contains(good), "{good}");
        assert_eq!(refusal(&BCM.replacen(good, bad, 1)), reason, "{bad}");
    }
}

#[test]
fn a_dual_bank_profile_needs_a_way_back_and_forward() {
    let verify = "  { step = \"verify\" },\n";
    assert_eq!(refusal(&ADAS.replacen(verify, "", 1)), "activate: ends with a verify step");
    assert_eq!(
        refusal(&BCM.replacen("\"single\"", "\"dual\"", 1)),
        "install: of a dual-bank ECU leaves the running software: no verify step"
    );
}

#[test]
fn a_profile_must_not_silence_what_undo_depends_on() {
    let profile = Profile::read(BCM).unwrap();
    assert!(profile.keeps_signals(&["Vehicle.Speed".into()]).is_ok());
    assert!(matches!(profile.keeps_signals(&["Vehicle.Body.Hood.IsOpen".into()]), Err(ProfileError::LosesSignal(_))));
}

proptest! {
    #[test]
    fn a_damaged_profile_is_read_or_refused_without_panic(at in 0usize..BCM.len(), byte in 0x20u8..0x7F) {
        let mut bytes = BCM.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = Profile::read(&String::from_utf8_lossy(&bytes));
    }
}
