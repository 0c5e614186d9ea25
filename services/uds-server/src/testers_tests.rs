//! Certificates that are good, and each way in which one is not.

use openssl::sign::Signer;
use pitstop_bundle_io::keys::{Identity, Usage, identity};

use super::*;

const NOW: UnixSeconds = 1_795_000_000;
const DAY: UnixSeconds = 86_400;

fn vin() -> Vin {
    Vin::new("WP0ZZZ99ZTS392124").unwrap()
}

fn authority() -> Identity {
    identity("Tester CA", Usage::Authority, None, NOW - DAY, 100).unwrap()
}

fn tester(authority: &Identity) -> Identity {
    identity("Tester 7", Usage::Tester, Some(authority), NOW - DAY, 10).unwrap()
}

fn testers(authority: &Identity) -> Testers {
    Testers::new(vin(), || Some(NOW)).with_trusted(&authority.certificate_pem().unwrap()).unwrap()
}

fn der(identity: &Identity) -> Vec<u8> {
    identity.certificate.to_der().unwrap()
}

fn refusal(testers: &Testers, certificate: &[u8]) -> Nrc {
    testers.judge(certificate).map(|tester| tester.name).unwrap_err()
}

#[test]
fn a_testers_signature_over_the_challenge_proves_it() {
    let authority = authority();
    let tester = tester(&authority);
    let mut testers = testers(&authority);
    let judged = testers.certificate(&der(&tester)).unwrap();
    assert_eq!(judged.name, "Tester 7");
    let challenge = testers.challenge().unwrap();
    assert_eq!((challenge.len(), &challenge[32..]), (49, b"WP0ZZZ99ZTS392124".as_slice()));
    assert_ne!(challenge, testers.challenge().unwrap());
    let sign =
        |key, message: &[u8]| Signer::new(MessageDigest::sha256(), key).unwrap().sign_oneshot_to_vec(message).unwrap();
    let proof = sign(&tester.key, &challenge);
    assert!(testers.proves(&judged, &challenge, &proof));
    assert!(!testers.proves(&judged, &challenge[1..], &proof));
    assert!(!testers.proves(&judged, &challenge, &sign(&authority.key, &challenge)));
    for nonsense in [&[][..], &[0x30], &proof[1..], &[0; 64]] {
        assert!(!testers.proves(&judged, &challenge, nonsense));
    }
}

#[test]
fn each_defect_has_its_code() {
    let authority = authority();
    let good = tester(&authority);
    let ours = testers(&authority);
    assert!(ours.judge(&der(&good)).is_ok());
    let at = |clock| Testers { clock, ..testers(&authority) };
    assert_eq!(refusal(&at(|| Some(NOW + 20 * DAY)), &der(&good)), Nrc::CertificateInvalidTimePeriod);
    assert_eq!(refusal(&at(|| Some(NOW - 2 * DAY)), &der(&good)), Nrc::CertificateInvalidTimePeriod);
    assert_eq!(refusal(&at(|| None), &der(&good)), Nrc::ConditionsNotCorrect, "the time is not known");
    assert_eq!(refusal(&testers(&self::authority()), &der(&good)), Nrc::CertificateInvalidChainOfTrust);
    assert_eq!(refusal(&Testers::new(vin(), || Some(NOW)), &der(&good)), Nrc::CertificateInvalidChainOfTrust);
    let mut spoilt = der(&good);
    let last = spoilt.len() - 1;
    spoilt[last] ^= 1;
    assert_eq!(refusal(&ours, &spoilt), Nrc::CertificateInvalidSignature);
    for usage in [Usage::BundleSigner, Usage::TlsClient, Usage::Authority] {
        let other = identity("Other", usage, Some(&authority), NOW - DAY, 10).unwrap();
        assert_eq!(refusal(&ours, &der(&other)), Nrc::CertificateInvalidType, "{usage:?}");
    }
    assert_eq!(refusal(&ours, &der(&authority)), Nrc::CertificateInvalidType, "the authority itself");
    let many = der(&good).repeat(4);
    for format in [&[][..], &[0x30, 0x82], &[0; 600], &der(&good)[..300], &many, &[0x30; 20_000]] {
        assert_eq!(refusal(&ours, format), Nrc::CertificateInvalidFormat);
    }
}

#[test]
fn an_intermediate_comes_behind_the_certificate() {
    let authority = authority();
    let between = identity("Workshop CA", Usage::Authority, Some(&authority), NOW - DAY, 50).unwrap();
    let tester = tester(&between);
    let ours = testers(&authority);
    assert_eq!(refusal(&ours, &der(&tester)), Nrc::CertificateInvalidChainOfTrust);
    assert!(ours.judge(&[der(&tester), der(&between)].concat()).is_ok());
}

/// Certificates that our own maker of certificates does not make, by OpenSSL's program.
fn special(authority: &Identity, key: &[&str], extensions: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("ca.pem"), authority.certificate_pem().unwrap()).unwrap();
    std::fs::write(path("ca.key"), authority.key_pem().unwrap()).unwrap();
    std::fs::write(path("extensions"), extensions).unwrap();
    let openssl = |words: &[&str]| {
        let done = std::process::Command::new("openssl").args(words).output().expect("the openssl program");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let (out, request, certificate) = (path("key"), path("request"), path("certificate"));
    openssl(&[&["genpkey", "-out", &out], key].concat());
    openssl(&["req", "-new", "-key", &out, "-subj", "/CN=Special", "-out", &request]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &path("ca.pem"),
        "-CAkey",
        &path("ca.key"),
        "-set_serial",
        "7",
        "-days",
        "3",
        "-extfile",
        &path("extensions"),
        "-outform",
        "DER",
        "-out",
        &certificate,
    ]);
    std::fs::read(certificate).unwrap()
}

#[test]
fn key_and_scope_are_looked_at() {
    let now = pitstop_runtime::wall_clock().unwrap();
    let authority = identity("Tester CA", Usage::Authority, None, now - DAY, 100).unwrap();
    let ours = Testers { clock: pitstop_runtime::wall_clock, ..testers(&authority) };
    let usage = format!("extendedKeyUsage={}\n", pitstop_bundle_io::keys::TESTER_USAGE);
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let p384 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
    let judge = |key: &[&str], more: &str| ours.judge(&special(&authority, key, &format!("{usage}{more}"))).map(drop);
    assert_eq!(judge(&p256, ""), Ok(()));
    assert_eq!(judge(&p384, ""), Err(Nrc::CertificateInvalidContent));
    assert_eq!(judge(&["-algorithm", "RSA"], ""), Err(Nrc::CertificateInvalidContent));
    assert_eq!(judge(&p256, "keyUsage=keyAgreement\n"), Err(Nrc::CertificateInvalidContent));
    let scope = |vins: &str| judge(&p256, &format!("subjectAltName={vins}\n"));
    assert_eq!(scope("URI:urn:vin:WP0ZZZ99ZTS392124"), Ok(()));
    assert_eq!(scope("URI:urn:vin:WP0ZZZ99ZTS392125,URI:urn:vin:WP0ZZZ99ZTS392124"), Ok(()));
    assert_eq!(scope("URI:urn:vin:WP0ZZZ99ZTS392125"), Err(Nrc::CertificateInvalidScope));
    assert_eq!(scope("DNS:workshop.example"), Ok(()));
}
