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

/// `ADAS` with `step` put before the first one of `after` in `job`.
fn adas_with(job: &str, after: &str, step: &str) -> String {
    let (head, tail) = ADAS.split_once(&format!("{job} = [")).unwrap();
    let tail = tail.replacen(after, &format!("{{ {step} }},\n  {after}"), 1);
    format!("{head}{job} = [{tail}")
}

#[test]
fn what_is_done_without_leave_does_not_restart_the_ecu() {
    let routine = "{ step = \"routine\"";
    let restarts = [
        "step = \"reset\"",
        "step = \"session\", session = 0x02, reboots = true",
        "step = \"request\", bytes = \"11 01\"",
        "step = \"request\", bytes = \"11 81\"",
        "step = \"request\", bytes = \"10 02\"",
    ];
    for step in restarts {
        for job in ["install", "commit"] {
            let reason = "asks nobody for leave, so no step may reset the ECU or start other software";
            assert_eq!(refusal(&adas_with(job, routine, step)), format!("{job}: {reason}"), "{step}");
        }
        for job in ["activate", "roll_back"] {
            assert!(Profile::read(&adas_with(job, routine, step)).is_ok(), "{job} {step}");
        }
    }
    assert!(Profile::read(&adas_with("install", routine, "step = \"request\", bytes = \"85 01\"")).is_ok());
}

#[test]
fn nothing_is_programmed_before_the_ecu_is_identified() {
    for step in ["step = \"session\", session = 0x02", "step = \"session\", session = 0x03, reboots = true"] {
        for job in ["activate", "roll_back"] {
            let reason = "a session that programs or reboots comes after the identify step";
            let text = adas_with(job, "{ step = \"identify\"", step);
            assert_eq!(refusal(&text), format!("{job}: {reason}"), "{step}");
        }
    }
}

#[test]
fn a_check_before_writing_tells_the_wanted_software_from_any_other() {
    for option in ["[\"address\", \"size\"]", "[\"size\", \"crc32\"]", "[]"] {
        let text = BCM.replacen("[\"address\", \"size\", \"crc32\"]", option, 1);
        assert_eq!(refusal(&text), "check.before: needs address and crc32 in check.option", "{option}");
        assert!(Profile::read(&text.replacen("before = true", "before = false", 1)).is_ok(), "{option}");
    }
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
