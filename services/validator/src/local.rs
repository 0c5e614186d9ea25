//! A workshop's package: read from a pipe, its metadata verified before its bundle is taken, its bundle copied while it is hashed.
//!
//! Whoever holds the other end is believed nothing: it may send anything, stop anywhere, or be slow. It can fill neither memory nor
//! disk beyond what the metadata has been verified to ask for, and hold nothing up for long.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitstop_bundle::package::{Contents, Member, Side, TAR_BLOCK, padding};
use pitstop_dbus::OtaError;
use pitstop_types::{Decision, EcuId, SoftwareVersion, UpdateId};
use pitstop_uptane::{OfflineFiles, Vehicle, verify_offline};

use crate::admission::{Admission, Source};
use crate::refusal;
use crate::service::{Validator, blocking, parse_update};
use crate::vault::Purpose;

/// Without a byte for so long the sender is gone or means harm; a tester that is asked to wait sends within P2*, 5 s.
const SILENCE: Duration = Duration::from_secs(30);
/// Least rate over all after [`GRACE`], in bytes a second: a third of what ISO-TP on classic CAN carries.
const LEAST_RATE: u64 = 10_000;
const GRACE: Duration = Duration::from_secs(60);
/// Bytes drained at once.
const CHUNK: usize = 64 * 1024;

/// The two ends of a package's way in. The reader takes `length` bytes and no more.
pub(crate) fn pipe(length: u64) -> Result<(Package, PipeWriter), OtaError> {
    let contents = Contents::new(length).map_err(|error| refusal::package(&error))?;
    let (reader, writer) = io::pipe().map_err(|error| OtaError::Internal(format!("making a pipe: {error}")))?;
    let stream = Paced { reader, taken: Arc::default(), left: length, begun: Instant::now(), silence: SILENCE };
    Ok((Package { stream, contents, length }, writer))
}

/// A package on its way in.
pub(crate) struct Package {
    stream: Paced,
    contents: Contents,
    length: u64,
}

impl Package {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes taken so far.
    pub(crate) fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.stream.taken)
    }

    /// Everything before the bundle, and the bundle's length.
    fn read_metadata(&mut self) -> Result<(OfflineFiles, u64), OtaError> {
        let mut files = OfflineFiles::default();
        loop {
            let mut block = [0; TAR_BLOCK];
            self.stream.read_exact(&mut block).map_err(|error| cut(&error))?;
            match self.contents.header(&block).map_err(|error| refusal::package(&error))? {
                Member::Bundle { length } => return Ok((files, length)),
                Member::Metadata { side, name, length } => {
                    // Bounded by `Contents`: all metadata together is some megabytes.
                    let mut bytes = Vec::new();
                    let whole = length + padding(length);
                    self.stream.by_ref().take(whole).read_to_end(&mut bytes).map_err(|error| cut(&error))?;
                    if bytes.len() as u64 != whole {
                        return Err(ended());
                    }
                    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
                    let into = match side {
                        Side::Director => &mut files.director,
                        Side::Image => &mut files.image,
                    };
                    into.insert(name, bytes);
                }
            }
        }
    }

    /// What is left after the bundle's own bytes; all of it is zero in an archive. `unread`: bytes of the bundle that nobody wanted.
    fn drain(mut self, unread: u64) -> Result<(), OtaError> {
        let mut buffer = vec![0; CHUNK];
        let mut skip = unread;
        while self.stream.left > 0 {
            let count = self.stream.read(&mut buffer).map_err(|error| cut(&error))?;
            let bytes = buffer.get(..count).filter(|bytes| !bytes.is_empty()).ok_or_else(ended)?;
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= skipped as u64;
            if bytes.iter().skip(skipped).any(|&byte| byte != 0) {
                return Err(OtaError::BadBundle("there is something behind the bundle".to_owned()));
            }
        }
        Ok(())
    }
}

impl Validator {
    /// Verifies and admits a package; tells `verified` when the metadata is good and the bundle's turn comes.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        mut package: Package,
        verified: impl AsyncFnOnce(),
    ) -> Result<(UpdateId, SoftwareVersion), OtaError> {
        let (package, files, length) = blocking(move || {
            let (files, length) = package.read_metadata()?;
            Ok((package, files, length))
        })
        .await?;
        let decision = self.decide_locally(files).await?;
        let admission = self.plan_local(&decision, length)?;
        verified().await;
        let turn = Arc::clone(&self.bundles).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let _turn = turn;
            // Ended while it waited for its turn.
            this.approvals.get(&admission.update)?;
            this.admit_from(package, &admission)?;
            Ok((admission.update, admission.expected.version))
        })
        .await
    }

    /// The verification of the offline roles. What was verified is stored, also when something else was refused.
    async fn decide_locally(self: &Arc<Self>, files: OfflineFiles) -> Result<Decision, OtaError> {
        let _turn = self.verifying.lock().await;
        let this = Arc::clone(self);
        let result = blocking(move || this.verify_local(&files)).await;
        if let Some(error) = result.as_ref().err().filter(|error| !error.is_temporary()) {
            let word = error.short_name().to_owned();
            self.ledger.change(|entries| entries.last_error = word)?;
        }
        result
    }

    fn verify_local(&self, files: &OfflineFiles) -> Result<Decision, OtaError> {
        let now = self.ledger.now((self.clock)())?;
        let trusted = self.trust.load(&self.ledger)?;
        let vehicle = Vehicle { vin: self.vin.clone(), ecus: self.ecus.clone(), floors: self.ledger.floors()? };
        let (result, generation) = verify_offline(&vehicle, trusted.clone(), files, Some(now));
        if generation != trusted {
            self.trust.store(&self.ledger, &generation)?;
        }
        let approval = result.map_err(|error| refusal::metadata(&error))?;
        let decision = approval.decision.clone();
        let decision = decision.ok_or_else(|| OtaError::MetadataMalformed("the package orders nothing".to_owned()))?;
        match decision.ecus.as_slice() {
            [only] if only.ecu.is_tcu() => {}
            _ => return Err(OtaError::BadEcuId("a workshop's package is for the TCU and no other ECU".to_owned())),
        }
        self.approvals.store(&approval, |update| self.vault.has_any(update))?;
        Ok(decision)
    }

    fn plan_local(&self, decision: &Decision, length: u64) -> Result<Admission, OtaError> {
        let ecu = EcuId::tcu();
        let part = decision.ecu(&ecu).ok_or_else(|| OtaError::UnknownEcu("the TCU has no part in it".to_owned()))?;
        let expected = part.target.clone();
        if expected.length != length {
            let text = format!("{}: {length} bytes, {} were decided", expected.name, expected.length);
            return Err(OtaError::LengthMismatch(text));
        }
        let floor = self.ledger.floor(&ecu)?;
        let now = self.ledger.now((self.clock)())?;
        Ok(Admission { update: decision.update.clone(), ecu, purpose: Purpose::Target, expected, floor, now })
    }

    fn admit_from(&self, mut package: Package, admission: &Admission) -> Result<(), OtaError> {
        let mut bundle = package.stream.by_ref().take(admission.expected.length);
        let record = admission.prepare(&self.vault, &self.keyring, Source::Stream(&mut bundle), &mut |_, _| true)?;
        let unread = bundle.limit();
        if let Err(error) = package.drain(unread) {
            self.vault.sweep()?;
            return Err(error);
        }
        match record {
            Some(record) => self.vault.admit(&admission.update, &admission.ecu, admission.purpose, &record),
            None => Ok(()),
        }
    }

    /// A workshop's update has ended.
    pub(crate) async fn end_local(self: &Arc<Self>, update: &str, committed: bool) -> Result<(), OtaError> {
        let update = parse_update(update)?;
        if !update.is_workshop() {
            return Err(OtaError::InvalidArgument(format!("{update} is not a workshop's update")));
        }
        match self.approvals.get(&update) {
            Ok(approved) if committed => {
                let runs = self.versions.read_tcu().await?.version;
                let target = approved.decision.ecu(&EcuId::tcu()).map(|part| part.target.version.clone());
                // Whoever asks may be mistaken or worse; a floor above what runs could not be taken back.
                if runs != target {
                    return Err(OtaError::WrongPhase("the TCU does not run what this update brought".to_owned()));
                }
                let this = Arc::clone(self);
                blocking(move || this.ledger.raise(&approved.floors)).await?;
            }
            Ok(_) | Err(OtaError::UnknownUpdate(_)) => {}
            Err(error) => return Err(error),
        }
        self.release(update.as_str()).await
    }
}

/// A pipe that neither falls silent nor trickles, nor gives more than was announced.
struct Paced {
    reader: PipeReader,
    taken: Arc<AtomicU64>,
    left: u64,
    begun: Instant,
    silence: Duration,
}

impl Read for Paced {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let Some(window) = into.get_mut(..most).filter(|window| !window.is_empty()) else { return Ok(0) };
        let taken = self.taken.load(Ordering::Relaxed);
        let paced = self.begun.elapsed().saturating_sub(GRACE).as_secs().saturating_mul(LEAST_RATE);
        if taken < paced {
            return Err(late(format!("{taken} bytes in {} s", self.begun.elapsed().as_secs())));
        }
        let mut fds = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(self.silence).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(late(format!("nothing came for {} s", self.silence.as_secs()))),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Err(io::ErrorKind::Interrupted.into()),
            Err(error) => return Err(error.into()),
        }
        let count = self.reader.read(window)?;
        self.left = self.left.saturating_sub(count as u64);
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn late(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn cut(error: &io::Error) -> OtaError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ended(),
        _ => refusal::reading(error),
    }
}

fn ended() -> OtaError {
    OtaError::LengthMismatch("the package ended before its announced length".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_sender_that_falls_silent_is_given_up_and_nothing_beyond_the_announced_length_is_read() {
        let (mut package, mut sink) = pipe(1024).unwrap();
        package.stream.silence = Duration::from_millis(20);
        sink.write_all(&[0x41; 100]).unwrap();
        assert!(matches!(package.read_metadata(), Err(OtaError::Slow(_))));
        let (mut package, mut sink) = pipe(10).unwrap();
        sink.write_all(&[0; 100]).unwrap();
        let mut read = Vec::new();
        package.stream.read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), package.stream.taken.load(Ordering::Relaxed)), (10, 10));
    }

    #[test]
    fn a_sender_that_trickles_is_given_up() {
        let (mut package, mut sink) = pipe(1 << 20).unwrap();
        sink.write_all(&[0; 50]).unwrap();
        let begun = Instant::now().checked_sub(GRACE + Duration::from_secs(2));
        package.stream.begun = begun.expect("a machine that runs for more than a minute");
        assert!(matches!(package.read_metadata(), Err(OtaError::Slow(_))));
    }

    #[test]
    fn ten_gigabytes_are_refused_before_there_is_a_pipe() {
        assert!(matches!(pipe(10_000_000_000), Err(OtaError::TooLarge(_))));
    }
}
