//! The floor in the TPM: a counter, and a baseline that is taken from it once. The floor is the difference.
//!
//! A baseline, because no counter begins at 0: a TPM starts a new one above every counter that it ever had (TPM 2.0 Part 3, TPM2_NV_Increment).
//! It is written once for ever: its only way to write is a policy that asks that it was not written yet, so no lock has to follow the write.
//!
//! What somebody who reaches the TPM can do:
//! - Raise the floor: then no update is accepted until a release above it. What runs still starts, because nothing asks the floor at boot.
//! - Not lower it by any write: the counter goes up only, the baseline stays. Nor lock it by wrong guesses: both indices are outside the TPM's
//!   defence against those, and have nothing to guess.
//! - Delete the indices with the owner's authorization, or clear the TPM. One of the two missing is a named error. Without both, the next
//!   [`FloorCounter::open`] begins again at 0; with a baseline defined anew by hand, the floor is what that says; and a TPM whose own state is
//!   put back shows the floor of that time. None of these shows in the TPM: the user of the floor must compare it with what was recorded
//!   elsewhere. Deleting needs no secret while the owner's authorization is empty; once it is set, only setting up needs it, and the floor is
//!   read and raised without.

use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::tss::TPM2_CC_PolicyNvWritten;
use tss_esapi::constants::{NvIndexType, SessionType};
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{Digest, MaxNvBuffer, NvPublic, SymmetricDefinition};
use tss_esapi::{Context, WrapperErrorKind};

use super::{Floor, FloorError, steps};
use crate::tpm::{exists, with_context};

/// The range of the TPM's owner (TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1, 2.2.2), numbered as the keys' handles are.
const COUNTER: u32 = 0x0180_0010;
const BASELINE: u32 = 0x0180_0011;
/// Octets of a counter (TPM 2.0 Part 3, TPM2_NV_DefineSpace), and so of its baseline. Both are big endian.
const VALUE_LEN: u16 = 8;
/// Baseline defined, counter defined, first increment, baseline written.
const SETUP_STEPS: usize = 4;

/// The lowest release counter that this TCU may be updated to, kept where no copy of the data partition can bring an older one back.
///
/// One service alone opens it: two that set it up at the same moment may begin at 1. Each act has its own connection, as with the keys.
#[derive(Debug)]
pub struct FloorCounter {
    tcti: String,
}

impl FloorCounter {
    /// Opens it; sets it up at its first use, or goes on with that after a power cut.
    pub fn open(tcti: &str) -> Result<Self, FloorError> {
        for _ in 0..SETUP_STEPS {
            if !set_up_further(tcti)? {
                break;
            }
        }
        let counter = Self { tcti: tcti.to_owned() };
        counter.floor()?;
        Ok(counter)
    }
}

impl Floor for FloorCounter {
    fn floor(&self) -> Result<u64, FloorError> {
        act(&self.tcti, "reading the rollback floor", |context| Ok(look(context)?.floor()?))
    }

    fn raise(&self, floor: u64) -> Result<(), FloorError> {
        // One conversation for each step: a long raise must not keep the process's keys from signing.
        for _ in 0..steps(self.floor()?, floor)? {
            act(&self.tcti, "raising the rollback floor", |context| step_towards(context, floor))?;
        }
        Ok(())
    }
}

/// What the TPM holds of the floor. An index that is defined and has no value yet is `Some(None)`.
#[derive(Debug, Clone, Copy)]
struct Held {
    counter: Option<Option<u64>>,
    baseline: Option<Option<u64>>,
}

impl Held {
    fn floor(self) -> Result<u64, FloorError> {
        match (self.counter.flatten(), self.baseline.flatten()) {
            (_, None) => Err(FloorError::BaselineMissing),
            (None, Some(_)) => Err(FloorError::CounterMissing),
            (Some(counter), Some(baseline)) => {
                counter.checked_sub(baseline).ok_or(FloorError::BaselineAboveCounter { baseline, counter })
            }
        }
    }
}

/// Does what comes next of setting up; false when nothing was left.
///
/// The baseline's empty index comes first. So a counter with no such index is never the work of a power cut, and is not given a new baseline:
/// that would take a floor that was raised back to 0.
fn set_up_further(tcti: &str) -> Result<bool, FloorError> {
    act(tcti, "setting up the rollback floor", |context| {
        let held = look(context)?;
        match (held.baseline, held.counter) {
            (None, None) => define(context, baseline_index()?)?,
            (Some(None), None) => define(context, counter_index()?)?,
            (Some(None), Some(None)) => increment(context)?,
            (Some(None), Some(Some(counter))) => write_baseline(context, counter)?,
            (Some(Some(_)), Some(Some(_))) => return Ok(false),
            (None, Some(_)) => return Err(FloorError::BaselineMissing.into()),
            (Some(Some(_)), None | Some(None)) => return Err(FloorError::CounterMissing.into()),
        }
        Ok(true)
    })
}

/// Looks again before each increment: an increment whose answer was lost is tried again, and must not count twice.
fn step_towards(context: &mut Context, floor: u64) -> Result<(), Stopped> {
    if look(context)?.floor()? < floor {
        increment(context)?;
    }
    Ok(())
}

/// Why an act ended: the TPM's own errors are worth another attempt, what it holds is not.
enum Stopped {
    Tpm(tss_esapi::Error),
    Floor(FloorError),
}

impl From<tss_esapi::Error> for Stopped {
    fn from(error: tss_esapi::Error) -> Self {
        Self::Tpm(error)
    }
}

impl From<FloorError> for Stopped {
    fn from(error: FloorError) -> Self {
        Self::Floor(error)
    }
}

/// `act` may be called again after an error of the TPM, so it looks first and does only what is left.
fn act<T>(
    tcti: &str,
    action: &'static str,
    mut act: impl FnMut(&mut Context) -> Result<T, Stopped>,
) -> Result<T, FloorError> {
    with_context(tcti, COUNTER, action, |context| match act(context) {
        Ok(value) => Ok(Ok(value)),
        Err(Stopped::Floor(error)) => Ok(Err(error)),
        Err(Stopped::Tpm(error)) => Err(error),
    })
    .map_err(FloorError::Tpm)?
}

fn look(context: &mut Context) -> Result<Held, Stopped> {
    Ok(Held { counter: value_at(context, counter_index()?)?, baseline: value_at(context, baseline_index()?)? })
}

/// The value of the index that `expected` describes. One defined otherwise could be written down, so its value means nothing.
fn value_at(context: &mut Context, expected: NvPublic) -> Result<Option<Option<u64>>, Stopped> {
    let number = u32::from(expected.nv_index());
    if !exists(context, number)? {
        return Ok(None);
    }
    let index = load(context, number)?;
    let (found, _) = context.nv_read_public(index)?;
    let written = found.attributes().written();
    if found != with_written(&expected, written)? {
        return Err(FloorError::Foreign(number).into());
    }
    if !written {
        return Ok(Some(None));
    }
    let octets = context
        .execute_with_nullauth_session(|context| context.nv_read(NvAuth::NvIndex(index), index, VALUE_LEN, 0))?;
    let value = <[u8; VALUE_LEN as usize]>::try_from(octets.value()).map_err(|_| FloorError::Foreign(number))?;
    Ok(Some(Some(u64::from_be_bytes(value))))
}

fn load(context: &mut Context, number: u32) -> tss_esapi::Result<NvIndexHandle> {
    context.tr_from_tpm_public(TpmHandle::NvIndex(NvIndexTpmHandle::new(number)?)).map(NvIndexHandle::from)
}

fn define(context: &mut Context, index: NvPublic) -> tss_esapi::Result<()> {
    context.execute_with_nullauth_session(|context| context.nv_define_space(Provision::Owner, None, index)).map(|_| ())
}

fn increment(context: &mut Context) -> tss_esapi::Result<()> {
    let index = load(context, COUNTER)?;
    context.execute_with_nullauth_session(|context| context.nv_increment(NvAuth::NvIndex(index), index))
}

fn write_baseline(context: &mut Context, value: u64) -> tss_esapi::Result<()> {
    let index = load(context, BASELINE)?;
    let octets = MaxNvBuffer::try_from(value.to_be_bytes().to_vec())?;
    let algorithm = SymmetricDefinition::AES_128_CFB;
    let started =
        context.start_auth_session(None, None, None, SessionType::Policy, algorithm, HashingAlgorithm::Sha256)?;
    let session = started.ok_or(tss_esapi::Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))?;
    context.execute_with_temporary_object(SessionHandle::from(session).into(), |context, _| {
        context.policy_nv_written(PolicySession::try_from(session)?, false)?;
        context
            .execute_with_session(Some(session), |context| context.nv_write(NvAuth::NvIndex(index), index, octets, 0))
    })
}

fn counter_index() -> tss_esapi::Result<NvPublic> {
    let attributes = readable().with_nv_index_type(NvIndexType::Counter).with_auth_write(true).build()?;
    index(COUNTER, attributes, Digest::default())
}

fn baseline_index() -> tss_esapi::Result<NvPublic> {
    let attributes = readable().with_nv_index_type(NvIndexType::Ordinary).with_policy_write(true).build()?;
    index(BASELINE, attributes, not_written_policy()?)
}

/// Read with the owner's or the index's own (empty) authorization; wrong ones do not count as attacks, which would lock it for a while.
fn readable() -> NvIndexAttributesBuilder {
    NvIndexAttributesBuilder::new().with_owner_read(true).with_auth_read(true).with_no_da(true)
}

fn index(number: u32, attributes: NvIndexAttributes, policy: Digest) -> tss_esapi::Result<NvPublic> {
    NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(number)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_index_auth_policy(policy)
        .with_data_area_size(usize::from(VALUE_LEN))
        .build()
}

/// The TPM sets the attribute at the first write; all else stays as it was defined.
fn with_written(public: &NvPublic, written: bool) -> tss_esapi::Result<NvPublic> {
    let number = u32::from(public.nv_index());
    let attributes = NvIndexAttributesBuilder::with_attributes(public.attributes()).with_written(written).build()?;
    index(number, attributes, public.authorization_policy().clone())
}

/// TPM 2.0 Part 3, TPM2_PolicyNvWritten with NO as the only term: the digest before it (zeros), the command's code, the argument.
fn not_written_policy() -> tss_esapi::Result<Digest> {
    let digest =
        Sha256::new().chain_update([0; 32]).chain_update(TPM2_CC_PolicyNvWritten.to_be_bytes()).chain_update([0]);
    Digest::try_from(digest.finalize().to_vec())
}

#[cfg(test)]
mod tests;
