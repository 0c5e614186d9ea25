use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use pitstop_bundle::Kind;
use pitstop_bundle_io::{BundleError, BundleReader, Keyring};
use pitstop_dbus::{AdmittedBundle, OtaError, ValidatorProxy};
use pitstop_runtime::operation::patiently;
use pitstop_types::{EcuId, UnixSeconds, UpdateId};
use tokio::sync::{mpsc, oneshot};
use zbus::Connection;

use super::times::Times;
use crate::ports::{Bundles, Payload, Role, Software};

/// Longest single read of a payload, in bytes: one block of the largest kind, with room.
const MAX_READ: u32 = 2 << 20;

/// Admitted bundles from `validator`, verified again with the flasher's own keyring.
pub struct ValidatorBundles {
    bus: Connection,
    keyring: Arc<Keyring>,
    times: Arc<Times>,
}

impl ValidatorBundles {
    pub fn new(bus: Connection, keyring: Keyring, times: Arc<Times>) -> Self {
        Self { bus, keyring: Arc::new(keyring), times }
    }
}

#[async_trait]
impl Bundles for ValidatorBundles {
    async fn open(&self, update: &UpdateId, ecu: &EcuId, role: Role) -> Result<Software, OtaError> {
        let validator =
            ValidatorProxy::builder(&self.bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        let open = || validator.open_admitted(update.as_str(), ecu.as_str(), role.as_str());
        let (fd, admitted) = patiently(open).await?;
        let now = self
            .times
            .now(admitted.admitted_at)
            .ok_or_else(|| OtaError::TimeUnknown("signatures cannot be judged".to_owned()))?;
        let judged_at = admitted.judged_at(now);
        open_software(File::from(OwnedFd::from(fd)), self.keyring.clone(), judged_at, Some(admitted)).await
    }
}

/// Opens a bundle for an ECU, checks its signature as of `judged_at`, and compares it with what validator admitted.
///
/// The bundle lives on a thread of its own, because reading it blocks; it ends when the payload is dropped.
pub async fn open_software(
    file: File,
    keyring: Arc<Keyring>,
    judged_at: UnixSeconds,
    admitted: Option<AdmittedBundle>,
) -> Result<Software, OtaError> {
    let (opened, wait) = oneshot::channel();
    let (ask, asked) = mpsc::channel(1);
    let thread = move || serve(file, &keyring, judged_at, admitted.as_ref(), ask, opened, asked);
    std::thread::Builder::new()
        .name("bundle".to_owned())
        .spawn(thread)
        .map_err(|e| OtaError::Internal(format!("starting the reader: {e}")))?;
    wait.await.map_err(|_| OtaError::Internal("the bundle's reader ended early".to_owned()))?
}

/// A question to the reader's thread.
struct Ask {
    offset: u64,
    length: u32,
    answer: oneshot::Sender<Result<Vec<u8>, OtaError>>,
}

fn serve(
    file: File,
    keyring: &Keyring,
    judged_at: UnixSeconds,
    admitted: Option<&AdmittedBundle>,
    ask: mpsc::Sender<Ask>,
    opened: oneshot::Sender<Result<Software, OtaError>>,
    mut asked: mpsc::Receiver<Ask>,
) {
    let reader = BundleReader::open(file, keyring, judged_at).map_err(named);
    let result = reader.and_then(|reader| {
        let software = software(&reader, admitted, ask)?;
        let name = reader.meta().map_err(named)?.payload.clone().unwrap_or_default();
        Ok((reader, software, name))
    });
    let (reader, name) = match result {
        Ok((reader, software, name)) => {
            // If nobody waits any more, nobody will ask either.
            let _ = opened.send(Ok(software));
            (reader, name)
        }
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let mut payload = match reader.read_file(&name) {
        Ok(payload) => payload,
        Err(error) => {
            log::error!("reading {name}: {}", error.text());
            return;
        }
    };
    let mut position = 0;
    while let Some(Ask { offset, length, answer }) = asked.blocking_recv() {
        let read = read_at(&mut payload, &mut position, offset, length);
        let _ = answer.send(read.map_err(|error| OtaError::HashMismatch(format!("{name} at {offset}: {error}"))));
    }
}

fn software(
    reader: &BundleReader,
    admitted: Option<&AdmittedBundle>,
    ask: mpsc::Sender<Ask>,
) -> Result<Software, OtaError> {
    let meta = reader.meta().map_err(named)?;
    if meta.kind != Kind::Ecu {
        return Err(OtaError::BadBundle("the bundle is not for an ECU".to_owned()));
    }
    let info = reader.info();
    let digest = info.manifest_hash.to_string();
    if let Some(admitted) = admitted {
        let root = info.verity.params().root.to_string();
        let same = admitted.verity_root == root
            && admitted.manifest_hash == digest
            && admitted.hardware == meta.hardware.as_str()
            && admitted.counter == meta.release_counter.0;
        if !same {
            return Err(OtaError::ManifestMismatch("the opened bundle is not the admitted one".to_owned()));
        }
    }
    Ok(Software {
        hardware: meta.hardware.clone(),
        version: meta.version.clone(),
        counter: meta.release_counter,
        digest,
        description: Arc::new(reader.description().map_err(named)?),
        payload: Box::new(ThreadPayload { ask }),
    })
}

fn read_at(payload: &mut (impl Read + Seek), position: &mut u64, offset: u64, length: u32) -> std::io::Result<Vec<u8>> {
    if length > MAX_READ {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    // Reads go forward nearly always; a seek in a compressed file is dear.
    if *position != offset {
        payload.seek(SeekFrom::Start(offset))?;
        *position = offset;
    }
    let mut bytes = vec![0; length as usize];
    let read = payload.read_exact(&mut bytes);
    *position = if read.is_ok() { offset + u64::from(length) } else { u64::MAX };
    read.map(|()| bytes)
}

fn named(error: BundleError) -> OtaError {
    OtaError::from_name(error.name(), error.text())
}

struct ThreadPayload {
    ask: mpsc::Sender<Ask>,
}

#[async_trait]
impl Payload for ThreadPayload {
    async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, OtaError> {
        let gone = || OtaError::Storage("the bundle's reader has ended".to_owned());
        let (answer, wait) = oneshot::channel();
        self.ask.send(Ask { offset, length, answer }).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}
