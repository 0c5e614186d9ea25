//! What is read back, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is the report"
)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use common::*;
use pitstop_bundle::layout::LayoutError;
use pitstop_bundle::{IdentityBlock, Kind, ManifestError};
use pitstop_bundle_io::keys::{Usage, identity};
use pitstop_bundle_io::{Builder, BundleError, BundleReader, Keyring, Limits, SignatureError};

#[test]
fn an_ecu_bundle_is_read_as_it_was_made() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    let built = ecu_bundle(&authority, &path, 115_000);
    let reader = BundleReader::open(File::open(&path).unwrap(), &authority.keyring(), NOW).unwrap();
    let info = reader.info();
    assert_eq!(info.manifest_hash, built.manifest_hash);
    assert_eq!((reader.meta().unwrap().kind, reader.meta().unwrap().hardware.as_str()), (Kind::Ecu, "bcm-a1"));
    assert_eq!(info.signer.subject, "Test signer");
    let description = reader.description().unwrap();
    let identity = &description.segments[0];
    let payload = reader.read_to_vec("payload.bin", 1 << 20).unwrap();
    assert_eq!(payload[..115_000], noise(115_000));
    let block = IdentityBlock::read(&payload[identity.offset as usize..][..identity.length as usize]).unwrap();
    assert_eq!((block.version.as_str(), block.counter.0), ("2.0.0", 2));
    let mut file = reader.read_file("payload.bin").unwrap();
    for at in [100_000u64, 3, 114_999, 0, 70_000] {
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], payload[at as usize], "at {at}");
    }
    assert!(matches!(reader.read_file("other").err(), Some(BundleError::NoFile(_))));
    assert!(matches!(reader.read_to_vec("payload.bin", 1000).err(), Some(BundleError::Limit { .. })));
    read_all(&path, &authority.keyring()).unwrap();
}

#[test]
fn the_same_content_and_salt_give_the_same_signed_bytes() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        Builder::ecu(&ecu(noise(50_000)))
            .unwrap()
            .salt([3; 32])
            .write(&folder.path().join(name), &authority.signer())
            .unwrap()
    };
    assert_eq!(make("a").manifest_hash, make("b").manifest_hash);
}

#[test]
fn every_flipped_byte_of_a_bundle_is_refused() {
    let authority = Authority::new();
    let keyring = authority.keyring();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    let built = ecu_bundle(&authority, &path, 20_000);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let payload = BundleReader::open(File::open(&path).unwrap(), &keyring, NOW).unwrap().info().layout.payload_len;
    // Of data and tree a sample; of the signature and the length, where a parser's leniency could hide, each byte.
    for at in (0..payload).step_by(509).chain(payload..built.length) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        for flip in [0x01, 0x80] {
            file.write_all_at(&[byte[0] ^ flip], at).unwrap();
            let result = read_all(&path, &keyring);
            assert!(result.is_err(), "byte {at} of {} flipped by {flip:#x} (payload ends at {payload})", built.length);
        }
        file.write_all_at(&byte, at).unwrap();
    }
    read_all(&path, &keyring).unwrap();
}

#[test]
fn zeros_truncation_trailing_bytes_and_false_lengths_have_names() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    let built = ecu_bundle(&authority, &path, 20_000);
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = read_all(&path, &authority.keyring()).unwrap_err();
        (error.name(), error)
    };
    assert!(matches!(refused(&[0; 100_000]), ("BadBundle", BundleError::Layout(LayoutError::NoSignature))));
    assert!(matches!(refused(&[]), ("BadBundle", BundleError::Layout(LayoutError::TooShort(0)))));
    for cut in [1, 7, 8, 9, 500, 5000, built.length as usize - 1] {
        let (name, error) = refused(&good[..good.len() - cut]);
        assert!(matches!(name, "BadBundle" | "BadSignature"), "cut by {cut}: {name} {error}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(refused(&longer).0, "BadBundle");
    let mut claims = good.clone();
    let end = claims.len();
    claims[end - 8..].copy_from_slice(&10_000_000_000u64.to_be_bytes());
    assert!(matches!(
        refused(&claims),
        ("BadBundle", BundleError::Layout(LayoutError::SignatureTooLong { claimed: 10_000_000_000 }))
    ));
    // A sparse file of 10 GB whose tail is good.
    std::fs::write(&path, b"").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10_000_000_000).unwrap();
    file.write_all_at(&1000u64.to_be_bytes(), 10_000_000_000 - 8).unwrap();
    let error = read_all(&path, &authority.keyring()).unwrap_err();
    assert!(matches!(error, BundleError::Layout(LayoutError::TooLong { .. })), "{error}");
}

#[test]
fn a_folder_is_no_bundle() {
    let error = BundleReader::open(File::open("/").unwrap(), &Authority::new().keyring(), NOW).err().unwrap();
    assert!(matches!(error, BundleError::NotAFile));
}

#[test]
fn only_the_keyrings_signers_with_the_right_purpose_at_the_right_time_are_believed() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    let open = |keyring: &Keyring, now| match BundleReader::open(File::open(&path).unwrap(), keyring, now) {
        Ok(_) => None,
        Err(BundleError::Signature(error)) => Some(error),
        Err(other) => panic!("{other}"),
    };
    ecu_bundle(&authority, &path, 1000);
    assert!(open(&authority.keyring(), NOW).is_none());
    assert!(matches!(open(&authority.keyring(), 0), Some(SignatureError::TimeUnknown)));
    assert!(
        matches!(open(&authority.keyring(), NOW + 400 * 86_400), Some(SignatureError::Chain(text)) if text.contains("expired"))
    );
    assert!(
        matches!(open(&authority.keyring(), NOW - 2 * 86_400), Some(SignatureError::Chain(text)) if text.contains("not yet valid"))
    );
    assert!(matches!(open(&Authority::new().keyring(), NOW), Some(SignatureError::Chain(_))));
    let write = |identity| Builder::ecu(&ecu(noise(1000))).unwrap().write(&path, &as_signer(identity)).unwrap();
    let client = identity("Client", Usage::TlsClient, Some(&authority.ca), NOW - 10, 10).unwrap();
    write(&client);
    assert!(matches!(open(&authority.keyring(), NOW), Some(SignatureError::Purpose)));
    // A signer is no authority: what its own certificate signs is refused.
    let below = identity("Below", Usage::BundleSigner, Some(&authority.signer), NOW - 10, 10).unwrap();
    let mut signer = as_signer(&below);
    signer.intermediates = vec![authority.signer.certificate.clone()];
    Builder::ecu(&ecu(noise(1000))).unwrap().write(&path, &signer).unwrap();
    assert!(matches!(open(&authority.keyring(), NOW), Some(SignatureError::Chain(_))));
    // An intermediate authority, embedded, is followed.
    let middle = identity("Middle", Usage::Authority, Some(&authority.ca), NOW - 10, 10).unwrap();
    let leaf = identity("Leaf", Usage::BundleSigner, Some(&middle), NOW - 10, 10).unwrap();
    let mut signer = as_signer(&leaf);
    signer.intermediates = vec![middle.certificate.clone()];
    Builder::ecu(&ecu(noise(1000))).unwrap().write(&path, &signer).unwrap();
    assert!(open(&authority.keyring(), NOW).is_none());
}

#[test]
fn limits_on_files_and_unpacked_length_hold() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    ecu_bundle(&authority, &path, 100_000);
    let open = |limits| BundleReader::open_with(File::open(&path).unwrap(), &authority.keyring(), NOW, &limits).err();
    assert!(open(Limits::default()).is_none());
    assert!(matches!(
        open(Limits { files: 2, ..Limits::default() }),
        Some(BundleError::Limit { found: 4, limit: 3, .. })
    ));
    assert!(matches!(
        open(Limits { unpacked: 50_000, ..Limits::default() }),
        Some(BundleError::Limit { limit: 50_000, .. })
    ));
    assert!(matches!(
        open(Limits { file_len: 50_000, ..Limits::default() }),
        Some(BundleError::Layout(LayoutError::TooLong { .. }))
    ));
    // Zeros pack into far less than a 512th.
    let built = tcu_bundle(&authority, folder.path(), &vec![0; 20 << 20]);
    let limits = Limits { ratio_from: 1 << 20, ..Limits::default() };
    let tcu = BundleReader::open_with(File::open(&built.path).unwrap(), &authority.keyring(), NOW, &limits).err();
    assert!(matches!(tcu, Some(BundleError::Limit { what: "an unpacked length", .. })));
}

#[test]
fn a_plain_manifest_is_refused_even_when_signed() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.raucb");
    let text = b"[update]\ncompatible=pitstop-bcm-a1\n";
    let signer = authority.signer();
    let der = pitstop_bundle_io::cms::sign(text, &signer.certificate, &signer.key, &[]).unwrap();
    let mut bytes = vec![0; 8192];
    bytes.extend(&der);
    bytes.extend((der.len() as u64).to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = read_all(&path, &authority.keyring()).unwrap_err();
    assert!(matches!(error, BundleError::Manifest(ManifestError::Format(_))), "{error}");
}

#[test]
fn a_revoked_signer_and_a_list_out_of_date_are_refused() {
    use openssl::asn1::{Asn1Integer, Asn1Time};
    use openssl::hash::MessageDigest;
    use openssl::x509::extension::AuthorityKeyIdentifier;
    use openssl::x509::{X509CrlBuilder, X509Extension, X509RevokedBuilder};
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bcm.raucb");
    ecu_bundle(&authority, &path, 1000);
    let crl = |revoked: Option<&Asn1Integer>, next: i64, issuer: &Authority| {
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(issuer.ca.certificate.subject_name()).unwrap();
        builder.set_last_update(&Asn1Time::from_unix(NOW - 100).unwrap()).unwrap();
        builder.set_next_update(&Asn1Time::from_unix(next).unwrap()).unwrap();
        if let Some(serial) = revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(serial).unwrap();
            entry.set_revocation_date(&Asn1Time::from_unix(NOW - 200).unwrap()).unwrap();
            builder.add_revoked(entry.build()).unwrap();
        }
        let context = openssl::x509::X509::builder().unwrap();
        let context = context.x509v3_context(Some(&issuer.ca.certificate), None);
        builder.append_extension(AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap()).unwrap();
        // CRL number 1, RFC 5280, 5.2.3.
        let number = openssl::asn1::Asn1OctetString::new_from_bytes(&[2, 1, 1]).unwrap();
        let oid = openssl::asn1::Asn1Object::from_str("2.5.29.20").unwrap();
        builder.append_extension(X509Extension::new_from_der(&oid, false, &number).unwrap()).unwrap();
        builder.sort().unwrap();
        builder.sign(&issuer.ca.key, MessageDigest::sha256()).unwrap();
        builder.build().unwrap().to_pem().unwrap()
    };
    let open = |crl: &[u8]| {
        let keyring = authority.keyring().with_crls(crl).unwrap();
        match BundleReader::open(File::open(&path).unwrap(), &keyring, NOW) {
            Ok(_) => None,
            Err(BundleError::Signature(error)) => Some(error),
            Err(other) => panic!("{other}"),
        }
    };
    let serial = authority.signer.certificate.serial_number().to_bn().unwrap().to_asn1_integer().unwrap();
    assert!(open(&crl(None, NOW + 1000, &authority)).is_none());
    assert!(
        matches!(open(&crl(Some(&serial), NOW + 1000, &authority)), Some(SignatureError::Revoked(name)) if name == "Test signer")
    );
    assert!(matches!(open(&crl(Some(&serial), NOW - 1, &authority)), Some(SignatureError::Revoked(_))));
    assert!(matches!(open(&crl(None, NOW - 1, &authority)), Some(SignatureError::NoCrl(_))));
    // A list of the same name by another key says nothing.
    assert!(matches!(open(&crl(None, NOW + 1000, &Authority::new())), Some(SignatureError::NoCrl(_))));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn any_payload_is_read_back_from_any_position(
        len in proptest::prop_oneof![1usize..200, 4000usize..4200, 130_000usize..132_000, 260_000usize..400_000],
        zeros in proptest::prelude::any::<bool>(),
        positions in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 8),
    ) {
        let authority = Authority::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.raucb");
        let content = if zeros { vec![0; len] } else { noise(len) };
        Builder::ecu(&ecu(content.clone())).unwrap().write(&path, &authority.signer()).unwrap();
        read_all(&path, &authority.keyring()).unwrap();
        let reader = BundleReader::open(File::open(&path).unwrap(), &authority.keyring(), NOW).unwrap();
        let mut file = reader.read_file("payload.bin").unwrap();
        for position in positions {
            let at = position.index(len);
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut part = vec![0; 100.min(len - at)];
            file.read_exact(&mut part).unwrap();
            assert_eq!(part, content[at..at + part.len()]);
        }
    }
}
