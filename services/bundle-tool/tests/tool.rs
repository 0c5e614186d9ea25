//! The program as a person calls it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests: a panic is the report")]

use std::path::Path;
use std::process::{Command, Output};

fn tool(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pitstop-bundle")).args(arguments).current_dir(folder).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn keys_build_info_verify_and_the_names_of_errors() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    assert!(tool(&["keys", "--out", "keys"], here).status.success());
    assert!(!tool(&["keys", "--out", "keys"], here).status.success(), "keys are never replaced");
    std::fs::write(here.join("fw.bin"), vec![0x5A; 5000]).unwrap();
    let release = "hardware = \"bcm-a1\"\nversion = \"2.0.0\"\nsoftware_number = \"PS-BCM-0001\"\nrelease_counter = 2\n\
                   identity_address = 0x08000000\n[[firmware]]\nfile = \"fw.bin\"\naddress = 0x08010000\n";
    std::fs::write(here.join("release.toml"), release).unwrap();
    let sign = ["--cert", "keys/signer.cert.pem", "--key", "keys/signer.key.pem"];
    let built = tool(&[&["build", "release.toml", "--out", "bcm.raucb", "--json"], &sign[..]].concat(), here);
    let built = json(&built);
    let verify = |name: &str| tool(&["verify", "--keyring", "keys/keyring.pem", "--json", name], here);
    let shown = json(&verify("bcm.raucb"));
    assert_eq!(
        (&shown["kind"], &shown["hardware"], &shown["content_verified"]),
        (&"ecu".into(), &"bcm-a1".into(), &true.into())
    );
    assert_eq!((&shown["manifest_hash"], &shown["length"]), (&built["manifest_hash"], &built["length"]));
    let info = tool(&["info", "--keyring", "keys/keyring.pem", "bcm.raucb"], here);
    assert!(String::from_utf8_lossy(&info.stdout).contains("release counter 2"), "{info:?}");

    std::fs::write(here.join("root.img"), vec![1; 100_000]).unwrap();
    let tcu = [
        "build",
        "--rootfs",
        "root.img",
        "--hardware",
        "tcu-a1",
        "--software-version",
        "2.0.0",
        "--release-counter",
        "2",
    ];
    assert!(tool(&[&tcu[..], &sign[..], &["--out", "tcu.raucb"]].concat(), here).status.success());
    assert_eq!(json(&verify("tcu.raucb"))["kind"], "tcu");

    let mut bytes = std::fs::read(here.join("bcm.raucb")).unwrap();
    bytes[200] ^= 1;
    std::fs::write(here.join("bad.raucb"), &bytes).unwrap();
    let bad = verify("bad.raucb");
    assert_eq!((bad.status.code(), &json(&bad)["error"]["name"]), (Some(1), &"HashMismatch".into()));
    std::fs::write(here.join("bad.raucb"), vec![0; 30_000]).unwrap();
    assert_eq!(json(&verify("bad.raucb"))["error"]["name"], "BadBundle");
    assert!(tool(&[&["build", "nowhere.toml", "--out", "x"], &sign[..]].concat(), here).status.code() == Some(1));
}
