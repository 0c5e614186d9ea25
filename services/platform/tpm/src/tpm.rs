//! A key in the TPM. Each act opens its own connection: nothing stays loaded, so services do not compete for the TPM's transient slots,
//! and a TPM that restarted is no special case.

use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::{CapabilityType, StructureTag};
use tss_esapi::handles::{ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::structures::{
    CapabilityData, Digest, EccParameter, EccPoint, EccScheme, EccSignature, HashScheme, HashcheckTicket, Public,
    PublicBuilder, PublicEccParametersBuilder, Signature, SignatureScheme,
};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;
use tss_esapi::{Context, TctiNameConf};

use crate::{DeviceKey, KeyError};

/// One TPM conversation at a time in this process.
static TURN: Mutex<()> = Mutex::new(());
/// A TPM that is shared answers "retry" or has no free slot now and then; six services at once need about a second.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub(crate) struct TpmKey {
    tcti: String,
    handle: u32,
    point: [u8; 65],
}

pub(crate) fn open(tcti: &str, handle: u32) -> Result<Option<TpmKey>, KeyError> {
    let public = with_context(tcti, handle, "reading the public key", |context| {
        if !exists(context, handle)? {
            return Ok(None);
        }
        let object = load(context, handle)?;
        context.read_public(object.into()).map(|(public, _, _)| Some(public))
    })?;
    match public {
        None => Ok(None),
        Some(public) => {
            let point = point_of(&public).ok_or(KeyError::Foreign(handle))?;
            Ok(Some(TpmKey { tcti: tcti.to_owned(), handle, point }))
        }
    }
}

pub(crate) fn create(tcti: &str, handle: u32) -> Result<(), KeyError> {
    // A primary key follows from the TPM's seed and this template; the random point in it makes each key another one.
    let mut unique = [0; 64];
    SystemRandom::new().fill(&mut unique).map_err(|_| KeyError::Signing)?;
    with_context(tcti, handle, "making a key", |context| {
        let template = template(&unique)?;
        let persistent = Persistent::Persistent(PersistentTpmHandle::new(handle)?);
        context.execute_with_nullauth_session(|context| {
            let made = context.create_primary(Hierarchy::Owner, template, None, None, None, None)?.key_handle;
            let kept = context.evict_control(Provision::Owner, made.into(), persistent);
            let flushed = context.flush_context(made.into());
            kept.and(flushed)
        })
    })
}

impl DeviceKey for TpmKey {
    fn public_point(&self) -> &[u8; 65] {
        &self.point
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let digest: [u8; 32] = Sha256::digest(message).into();
        let signature = with_context(&self.tcti, self.handle, "signing", |context| {
            let object = load(context, self.handle)?;
            let digest = Digest::try_from(digest.to_vec())?;
            let scheme = SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) };
            let ticket = null_ticket()?;
            context.execute_with_nullauth_session(|context| context.sign(object.into(), digest, scheme, ticket))
        })?;
        match signature {
            Signature::EcDsa(signature) => Ok(der_signature(&signature)),
            _ => Err(KeyError::Foreign(self.handle)),
        }
    }

    fn store(&self) -> &'static str {
        "tpm"
    }
}

pub(crate) fn with_context<T>(
    tcti: &str,
    handle: u32,
    action: &'static str,
    mut act: impl FnMut(&mut Context) -> tss_esapi::Result<T>,
) -> Result<T, KeyError> {
    let failed = |error: tss_esapi::Error| KeyError::Tpm { action, handle, text: error.to_string() };
    let name = TctiNameConf::from_str(tcti).map_err(failed)?;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut attempt = 1;
    loop {
        match Context::new(name.clone()).and_then(|mut context| act(&mut context)) {
            Ok(value) => return Ok(value),
            Err(error) if attempt >= ATTEMPTS => return Err(failed(error)),
            Err(error) => log::debug!("TPM, {action}, attempt {attempt}: {error}"),
        }
        attempt += 1;
        thread::sleep(PAUSE);
    }
}

/// Whether anything is kept at `handle`; asked this way because reading an empty handle is an error like any other.
pub(crate) fn exists(context: &mut Context, handle: u32) -> tss_esapi::Result<bool> {
    let (found, _) = context.get_capability(CapabilityType::Handles, handle, 1)?;
    match found {
        CapabilityData::Handles(list) => Ok(list.into_inner().iter().any(|h| u32::from(*h) == handle)),
        _ => Ok(false),
    }
}

fn load(context: &mut Context, handle: u32) -> tss_esapi::Result<ObjectHandle> {
    context.tr_from_tpm_public(TpmHandle::Persistent(PersistentTpmHandle::new(handle)?))
}

fn template(unique: &[u8; 64]) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let (x, y) = unique.split_at(32);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_unrestricted_signing_key(
                EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(x.to_vec())?,
            EccParameter::try_from(y.to_vec())?,
        ))
        .build()
}

/// The public point, if the object is a P-256 signing key that was born in this TPM and cannot leave it.
fn point_of(public: &Public) -> Option<[u8; 65]> {
    let Public::Ecc { object_attributes, parameters, unique, .. } = public else { return None };
    let homegrown =
        object_attributes.fixed_tpm() && object_attributes.sensitive_data_origin() && object_attributes.sign_encrypt();
    if !homegrown || parameters.ecc_curve() != EccCurve::NistP256 {
        return None;
    }
    let mut point = [0; 65];
    let (head, rest) = point.split_at_mut(1);
    head.fill(4);
    let (x, y) = rest.split_at_mut(32);
    right_align(x, unique.x().value())?;
    right_align(y, unique.y().value())?;
    Some(point)
}

/// The TPM may leave out leading zeros.
fn right_align(into: &mut [u8], value: &[u8]) -> Option<()> {
    let from = into.len().checked_sub(value.len())?;
    into.get_mut(from..)?.copy_from_slice(value);
    Some(())
}

/// Says that the digest was not made in the TPM (TPM 2.0 Part 3, 20.2): allowed for a key that is not restricted.
fn null_ticket() -> tss_esapi::Result<HashcheckTicket> {
    TPMT_TK_HASHCHECK {
        tag: u16::from(StructureTag::Hashcheck),
        hierarchy: tss_esapi::constants::tss::TPM2_RH_NULL,
        digest: Default::default(),
    }
    .try_into()
}

/// RFC 3279, 2.2.3: SEQUENCE of the two INTEGERs.
fn der_signature(signature: &EccSignature) -> Vec<u8> {
    let mut body = der_integer(signature.signature_r().value());
    body.extend(der_integer(signature.signature_s().value()));
    let mut der = vec![0x30, body.len() as u8];
    der.extend(body);
    der
}

/// At most 33 bytes of content for P-256, so one byte of length always does.
fn der_integer(value: &[u8]) -> Vec<u8> {
    let start = value.iter().position(|&b| b != 0).unwrap_or(value.len().saturating_sub(1));
    let digits = value.get(start..).unwrap_or_default();
    let sign = digits.first().is_none_or(|b| b & 0x80 != 0);
    let mut der = vec![0x02, (digits.len() + usize::from(sign)) as u8];
    der.extend(sign.then_some(0));
    der.extend_from_slice(digits);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_the_only_der_encoding() {
        assert_eq!(der_integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(der_integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(der_integer(&[0, 0]), [2, 1, 0]);
        assert_eq!(der_integer(&[]), [2, 1, 0]);
        assert_eq!(der_integer(&[0xFF; 32])[..4], [2, 33, 0, 0xFF]);
    }

    #[test]
    fn short_coordinates_are_aligned_to_the_right() {
        let mut into = [9; 4];
        into.fill(0);
        right_align(&mut into, &[1, 2]).unwrap();
        assert_eq!(into, [0, 0, 1, 2]);
        assert!(right_align(&mut into, &[0; 5]).is_none());
    }
}
