use pitstop_bundle::Segment;
use pitstop_bundle::description::{After, Expected};
use pitstop_types::SoftwareVersion;
use proptest::prelude::*;

use super::*;

const PROFILE: &str = include_str!("../../../../../rootfs-overlay/usr/lib/pitstop/profiles/bcm.toml");

/// Of the segments here the one that seals, if it is there.
const SEAL: u32 = 0x9000;

fn profile() -> Profile {
    Profile::read(PROFILE).expect("shipped profile")
}

fn description(segments: &[(u32, u32)]) -> Description {
    let mut offset = 0;
    let segment = |&(address, length): &(u32, u32)| {
        let segment = Segment::of(address, offset, &vec![7; length as usize]).unwrap();
        offset += u64::from(length);
        segment
    };
    let segments = segments.iter().map(segment).collect();
    let after = After { software_number: "PS-1".into(), version: SoftwareVersion::new("2.0").unwrap() };
    Description { format: 1, segments, expect: Expected::default(), after }
}

fn identity() -> EcuIdentity {
    let version = SoftwareVersion::new("1.0").ok();
    EcuIdentity { hardware: "bcm-a1".into(), serial: "S".into(), software_number: "PS-1".into(), version }
}

fn plan(description: &Description, blanks: &[Vec<Range<u64>>], right: &[bool]) -> Result<TransferPlan, PlanError> {
    let mut profile = profile();
    profile.transfer.seal = description.segments.iter().map(|segment| segment.address).find(|at| *at == SEAL);
    plan_with(&profile, description, blanks, right)
}

fn plan_with(
    profile: &Profile,
    description: &Description,
    blanks: &[Vec<Range<u64>>],
    right: &[bool],
) -> Result<TransferPlan, PlanError> {
    let (ecu, hardware) = (EcuId::new("bcm").unwrap(), HardwareId::new("bcm-a1").unwrap());
    let identity = identity();
    TransferPlan::new(&PlanInput {
        ecu: &ecu,
        hardware: &hardware,
        description,
        blanks,
        profile,
        identity: &identity,
        erased: false,
        seal: None,
        right,
    })
}

#[test]
fn a_plan_reads_like_a_work_order() {
    let description = description(&[(0x8000, 64), (0x9000, 64), (0x1_0000, 100_000)]);
    let blanks = [vec![], vec![], vec![1000..5000, 90_000..100_000]];
    insta::assert_snapshot!("whole", plan(&description, &blanks, &[]).unwrap());
    insta::assert_snapshot!("one_segment_right", plan(&description, &blanks, &[true, true, false]).unwrap());
    assert!(plan(&description, &blanks, &[true; 3]).unwrap().is_nothing());
}

#[test]
fn segments_that_share_a_sector_are_erased_and_written_together() {
    let description = description(&[(0x1_0000, 5000), (0x1_1800, 100), (0x2_0000, 10)]);
    let plan = plan(&description, &[], &[true, false, true]).unwrap();
    assert_eq!(
        plan.groups,
        [Group { erase: Some(EraseRange { address: 0x1_0000, size: 0x2000 }), segments: vec![0, 1] }]
    );
    assert!(!plan.segments[0].right && plan.segments[2].right);
}

#[test]
fn the_wrong_ecu_gets_no_plan() {
    let mut description = description(&[(0, 10)]);
    description.expect.software_numbers = vec!["PS-7".into()];
    description.after.software_number = "PS-8".into();
    assert!(matches!(plan(&description, &[], &[]), Err(PlanError::NotReplaceable { .. })));
    description.expect.software_numbers.push("PS-1".into());
    assert!(plan(&description, &[], &[]).is_ok());
    description.segments[0].data_format = 0x10;
    assert_eq!(plan(&description, &[], &[]), Err(PlanError::PackedCheck { address: 0 }));
}

#[test]
fn a_seal_that_is_no_segment_gives_no_plan() {
    let mut profile = profile();
    profile.transfer.seal = Some(SEAL);
    let plan = |segments: &[(u32, u32)]| plan_with(&profile, &description(segments), &[], &[]);
    assert!(plan(&[(0x8000, 64), (SEAL, 64)]).is_ok());
    assert_eq!(plan(&[(0x8000, 0x2000)]), Err(PlanError::SealMissing { address: SEAL }));
}

#[test]
fn memory_that_the_profile_has_too_few_bytes_for_gives_no_plan() {
    let mut profile = profile();
    (profile.transfer.address_bytes, profile.transfer.size_bytes) = (3, 2);
    let what = |profile: &Profile, segment: (u32, u32)| match plan_with(profile, &description(&[segment]), &[], &[]) {
        Ok(_) => "fits",
        Err(PlanError::DoesNotFit { what, .. }) => what,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(what(&profile, (0xFF_F000, 0x1000)), "fits");
    // Cut to three bytes it would be 0x00_8000.
    assert_eq!(what(&profile, (0x0800_8000, 64)), "segment");
    assert_eq!(what(&profile, (0xFF_F000, 0x1001)), "segment", "it ends beyond");
    assert_eq!(what(&profile, (0, 0x1_0000)), "segment", "its size needs three bytes");
    assert_eq!(what(&profile, (0, 0xFFFF)), "range to erase", "whole sectors need three bytes");
    profile.erase.option.retain(|field| *field != OptionField::Size);
    assert_eq!(what(&profile, (0, 0xFFFF)), "fits", "the erase request carries no size");
    assert_eq!(what(&profile, (0, 0x1_0000)), "segment", "34 does");
    (profile.transfer.address_bytes, profile.transfer.size_bytes) = (4, 4);
    assert_eq!(what(&profile, (0xFFFF_0000, 0xF000)), "fits");
}

proptest! {
    /// Pieces and blank runs together are the segment, nothing twice; everything written lies in erased sectors.
    #[test]
    fn a_plan_covers_exactly_what_is_not_blank(
        lengths in prop::collection::vec((1u32..20_000, 0u32..9000), 1..6),
        cuts in prop::collection::vec((0u64..20_000, 1u64..3000), 0..5),
    ) {
        let mut at = 0;
        let segments: Vec<(u32, u32)> = lengths.iter().map(|(length, gap)| { let start = at + gap; at = start + length; (start, *length) }).collect();
        let mut blank: Vec<Range<u64>> = Vec::new();
        let mut from = 0;
        for (gap, length) in cuts {
            blank.push(from + gap..from + gap + length);
            from += gap + length;
        }
        let description = description(&segments);
        let blanks = vec![blank.clone(); segments.len()];
        let plan = plan(&description, &blanks, &[]).unwrap();
        for (segment, source) in plan.segments.iter().zip(&description.segments) {
            let length = u64::from(source.length);
            let left_out: u64 = blank.iter().map(|r| r.end.min(length).saturating_sub(r.start.min(length))).sum();
            prop_assert_eq!(segment.pieces.iter().map(|p| u64::from(p.length)).sum::<u64>() + left_out, length);
            for piece in &segment.pieces {
                prop_assert_eq!(u64::from(piece.address - source.address), piece.offset - source.offset);
                let range = plan.groups.iter().filter_map(|g| g.erase).find(|r| r.address <= piece.address.into() && u64::from(piece.address) + u64::from(piece.length) <= r.end());
                prop_assert!(range.is_some());
            }
        }
    }
}
