//! The requests of the write step, as the profile lays them out.

use std::time::Duration;

use pitstop_uds::{Addressing, BlockLength, Request, Response, RoutineAction, RoutineId, StepLimits};

use crate::HexBytes;
use crate::install::Act;
use crate::plan::{Group, PlannedSegment};
use crate::profile::{OptionField, Profile};

/// Data bytes per block: the smaller of what both sides take, less SID and counter.
pub(super) fn block_bytes(profile: &Profile, ecu: BlockLength) -> Option<u32> {
    let ours = BlockLength(profile.transfer.max_block_length.into());
    u32::try_from(ecu.min(ours).data_bytes()).ok().filter(|bytes| *bytes > 0)
}

pub(super) fn status_is(response: &Response, wanted: &HexBytes) -> bool {
    matches!(response, Response::RoutineControl { status, .. } if status.starts_with(wanted.as_slice()))
}

pub(super) fn erase_act(profile: &Profile, group: &Group) -> Act {
    let (address, size) = group.erase.map_or((0, 0), |range| (range.address, range.size));
    let option = option_record(profile, &profile.erase.option, address, size, 0);
    routine(profile.erase.routine, option, profile.erase.limit)
}

pub(super) fn check_act(profile: &Profile, segment: &PlannedSegment) -> Act {
    let (address, size) = (segment.address.into(), segment.memory_length.into());
    let option = option_record(profile, &profile.check.option, address, size, segment.crc32);
    routine(profile.check.routine, option, profile.check.limit)
}

fn option_record(profile: &Profile, fields: &[OptionField], address: u64, size: u64, crc32: u32) -> Vec<u8> {
    let (address_bytes, size_bytes) = (profile.transfer.address_bytes, profile.transfer.size_bytes);
    // Nothing is lost: a plan has no address and no size that needs more bytes.
    let low = |value: u64, count: u8| {
        value.to_be_bytes().into_iter().skip(8usize.saturating_sub(count.into())).collect::<Vec<u8>>()
    };
    let one = |field: &OptionField| match field {
        OptionField::Format => vec![size_bytes << 4 | address_bytes],
        OptionField::Address => low(address, address_bytes),
        OptionField::Size => low(size, size_bytes),
        OptionField::Crc32 => crc32.to_be_bytes().to_vec(),
    };
    fields.iter().flat_map(one).collect()
}

fn routine(routine: RoutineId, option: Vec<u8>, limit: Duration) -> Act {
    send(Request::RoutineControl { action: RoutineAction::Start, routine, option }, limit)
}

pub(super) fn send(request: Request, total: Duration) -> Act {
    let limits = StepLimits::for_request(&request).within(total);
    Act::Send { request, addressing: Addressing::Physical, quiet: false, limits }
}
