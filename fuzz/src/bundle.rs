use pitstop_bundle::description::{After, Expected};
use pitstop_bundle::package::{self, BUNDLE, Contents, Side, TAR_BLOCK};
use pitstop_bundle::{Description, IdentityBlock, Manifest, Segment, signed_data};

pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::read(data) else { return };
    let _ = (manifest.check_signed(), manifest.pitstop());
    let written = manifest.write().expect("what was read can be written");
    assert_eq!(Manifest::read(written.as_bytes()), Ok(manifest), "written and read again it is another");
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let hash = "5a".repeat(32);
    let tcu = format!(
        "[update]\ncompatible=tcu-1\nversion=5.1.0\n\n[bundle]\nformat=verity\nverity-hash={hash}\nverity-salt={hash}\n\
         verity-size=4096\n\n[image.rootfs]\nfilename=rootfs.ext4\nsha256={hash}\nsize=4096\n\n[meta.pitstop]\nformat=1\n\
         kind=tcu\nhardware=tcu-1\nversion=5.1.0\nrelease-counter=2\n"
    );
    let ecu = tcu.replace("kind=tcu", "kind=ecu\npayload=app.bin\ndescription=app.toml").replace("rootfs", "app");
    vec![tcu.into_bytes(), ecu.into_bytes(), b"[a]\nb=c\\sd\\n\n[a.b]\nc=\n".to_vec()]
}

/// The first two bytes are the payload's length; the rest is a description, or the block that tells an ECU's software.
pub fn description(data: &[u8]) {
    let Some((&[high, low], text)) = data.split_first_chunk() else { return };
    let length = u64::from(u16::from_be_bytes([high, low]));
    if let Ok(description) = Description::read(text, length) {
        let ends = description.segments.iter().map(Segment::end_offset);
        assert!(ends.max().unwrap_or(0) <= length, "a segment beyond the payload");
        let written = description.write().expect("what was read can be written");
        assert_eq!(Description::read(written.as_bytes(), length), Ok(description));
    }
    if let Ok(block) = IdentityBlock::read(text) {
        let written = block.write().expect("what was read can be written");
        assert_eq!(IdentityBlock::read(&written), Ok(block));
    }
}

pub fn description_seeds() -> Vec<Vec<u8>> {
    let block = IdentityBlock {
        software_number: "8A0.907.063".to_owned(),
        version: pitstop_types::SoftwareVersion::new("1.5.0").expect("a version"),
        counter: pitstop_types::ReleaseCounter(7),
    };
    let mut identity = vec![0x10, 0x00];
    identity.extend(block.write().expect("it fits"));
    let pieces = [(0x0801_0000, 0, 3000), (0x0802_0000, 3000, 96)];
    let segment = |(address, offset, length)| Segment::of(address, offset, &vec![7; length]).expect("a segment");
    let description = Description {
        format: 1,
        segments: pieces.map(segment).to_vec(),
        expect: Expected { software_numbers: vec![block.software_number.clone()] },
        after: After { software_number: block.software_number, version: block.version },
    };
    let text = description.write().expect("it is well formed");
    vec![identity, [&[0x10, 0x00], text.as_bytes()].concat()]
}

pub fn signature(data: &[u8]) {
    let Ok(found) = signed_data::read(data) else { return };
    let inside = |part: &[u8]| data.as_ptr_range().contains(&part.as_ptr()) || part.is_empty();
    assert!(inside(found.content) && found.certificates.iter().all(|certificate| inside(certificate)));
    assert!(signed_data::read(&[data, &[0]].concat()).is_err(), "a byte behind the structure is taken");
}

pub fn signature_seeds() -> Vec<Vec<u8>> {
    // The outermost fields alone: content info, its type, SignedData, version 1, SHA-256.
    let mut der =
        vec![0x30, 0x2D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02, 0xA0, 0x20, 0x30, 0x1E];
    der.extend([
        0x02, 0x01, 0x01, 0x31, 0x0F, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
    ]);
    der.extend([0x05, 0x00, 0x30, 0x0B, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01]);
    vec![der]
}

/// The first four bytes are the length that whoever brings the package claims.
pub fn package(data: &[u8]) {
    let Some((&claimed, mut rest)) = data.split_first_chunk::<4>() else { return };
    let claimed = u64::from(u32::from_be_bytes(claimed));
    let Ok(mut contents) = Contents::new(claimed) else { return };
    let mut read = 0_u64;
    while let Some((block, behind)) = rest.split_first_chunk::<TAR_BLOCK>() {
        let Ok(member) = contents.header(block) else { return };
        read += TAR_BLOCK as u64 + member.length() + package::padding(member.length());
        assert!(read <= claimed, "more is announced than the package has");
        assert_eq!(contents.left(), claimed - read);
        let length = usize::try_from(member.length() + package::padding(member.length())).unwrap_or(usize::MAX);
        rest = behind.get(length..).unwrap_or_default();
    }
}

pub fn package_seeds() -> Vec<Vec<u8>> {
    let mut data = 4096_u32.to_be_bytes().to_vec();
    let names = [
        (package::metadata_name(Side::Director, "2.root.json"), 5),
        (package::metadata_name(Side::Image, "targets.json"), 0),
    ];
    for (name, length) in names {
        data.extend(package::header(&name, length).expect("a name of a package"));
        data.resize(data.len() + usize::try_from(length + package::padding(length)).unwrap_or(0), b'{');
    }
    data.extend(package::header(BUNDLE, 512).expect("the bundle"));
    data.resize(data.len() + 512, 7);
    vec![data]
}
