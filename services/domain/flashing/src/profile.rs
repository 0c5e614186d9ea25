//! Flash profile: everything that car makers vary about reprogramming an ECU, as data (TOML).
//!
//! A profile lists for each job (`install`, `activate`, `commit`, `roll_back`) the steps in their order, one line per step.
//! ISO 14229-1 fixes only a few of them (10 02, 34/36/37, FF00, FF01, reset); all others are the maker's choice, so every
//! step can be switched, addressed and bounded here, and none is code.

mod file;
mod step;

use std::time::Duration;

use pitstop_uds::{Did, RoutineId, SessionType};

pub use step::{Step, StepKind};

use crate::{Banks, HexBytes};

/// Largest profile read, in bytes.
pub const MAX_PROFILE_FILE: usize = 64 * 1024;
/// Most steps of one job.
pub const MAX_STEPS: usize = 32;
/// Most signals a profile may name as lost.
pub const MAX_LOST_SIGNALS: usize = 256;

/// One kind of ECU's way of being flashed, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub banks: Banks,
    pub timing: Timing,
    pub transfer: Transfer,
    pub security: Security,
    pub erase: Erase,
    pub check: Check,
    pub retry: Retry,
    pub identification: Identification,
    /// Signals (VSS names) nobody sends while this ECU is flashed.
    pub lost_signals: Vec<String>,
    /// Single-bank: the whole flashing. Dual-bank: writing the inactive bank.
    pub install: Vec<Step>,
    pub activate: Vec<Step>,
    pub commit: Vec<Step>,
    pub roll_back: Vec<Step>,
}

/// The jobs a profile has steps for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Install,
    Activate,
    Commit,
    RollBack,
}

/// Timing of the diagnostic session (ISO 14229-2). P2 and P2* hold until the ECU tells its own in the answer to 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub p2: Duration,
    pub p2_star: Duration,
    /// Idle time after which 3E is sent (S3client).
    pub keep_alive: Duration,
    /// Longest time from a reset, or a change of the running program, until the ECU answers again.
    pub boot: Duration,
}

/// How data is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Longest TransferData request this tester sends, in bytes with SID and counter; the ECU may ask for less.
    pub max_block_length: u32,
    pub address_bytes: u8,
    pub size_bytes: u8,
    /// What erased flash reads as; runs of it are not sent.
    pub blank: u8,
    /// Length of a blank run in bytes from which leaving it out is worth another 34 and 37.
    pub split_gap: u64,
    /// For estimates only.
    pub bytes_per_second: u32,
    /// Address of the segment that makes the software valid to the ECU: erased first, written last. `None`: the one that holds an
    /// identity block.
    pub seal: Option<u32>,
}

/// What unlocks programming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    None,
    /// 0x27 with a plug-in that knows the key function; `level` is the odd requestSeed sub-function.
    SeedKey {
        plugin: String,
        level: u8,
    },
}

/// Values put into a routine's option record, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptionField {
    /// addressAndLengthFormatIdentifier.
    Format,
    Address,
    Size,
    /// CRC-32 (IEEE) of the segment, 4 bytes.
    Crc32,
}

/// How memory is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erase {
    pub routine: RoutineId,
    /// Empty: the routine erases the whole bank, once.
    pub option: Vec<OptionField>,
    pub status: HexBytes,
    /// Erase granularity in bytes, a power of two.
    pub sector: u32,
    pub limit: Duration,
    /// For estimates only.
    pub ms_per_kib: u32,
}

/// How written memory is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub routine: RoutineId,
    pub option: Vec<OptionField>,
    pub status: HexBytes,
    /// Whether it may be asked before writing, to leave out what is there already.
    pub before: bool,
    pub limit: Duration,
}

/// Bounds of what is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Starts from the programming session again after a lost session, a reset or a broken link.
    pub restarts: u32,
    /// Erase and transfer of one segment again after 70, 71, 72, a wrong counter or a failed check.
    pub rewrites: u32,
    /// 21 and 94: the pause before the same request again; the step's limit bounds the repeats.
    pub busy_pause: Duration,
    /// Repeats of an unanswered request (RepeatReqCountApp of ISO 14229-2 implementations).
    pub silence: u32,
    /// 22, 92 and 93: how often a refused condition is asked again, and the pause.
    pub conditions: u32,
    pub conditions_pause: Duration,
}

/// Which DIDs identify the ECU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identification {
    pub hardware: Did,
    pub software_number: Did,
    pub version: Did,
    pub serial: Did,
}

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("profile of {0} bytes, at most {MAX_PROFILE_FILE} are read")]
    TooLarge(usize),
    #[error("profile")]
    Toml(#[from] toml::de::Error),
    #[error("profile: format {0} is not known, 1 is")]
    Format(u32),
    #[error("{job} step {number}: {problem}")]
    Step { job: &'static str, number: usize, problem: &'static str },
    #[error("{job}: {problem}")]
    Job { job: &'static str, problem: &'static str },
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: &'static str },
    #[error("signal {0} would be lost while flashing, but undoing an update depends on it")]
    LosesSignal(String),
}

impl Job {
    pub const ALL: [Self; 4] = [Self::Install, Self::Activate, Self::Commit, Self::RollBack];

    /// Its key in the profile.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Activate => "activate",
            Self::Commit => "commit",
            Self::RollBack => "roll_back",
        }
    }
}

impl Profile {
    /// Reads a profile. Unknown keys are refused, and so are steps that make no sense together.
    pub fn read(text: &str) -> Result<Self, ProfileError> {
        if text.len() > MAX_PROFILE_FILE {
            return Err(ProfileError::TooLarge(text.len()));
        }
        let profile = toml::from_str::<file::FileProfile>(text)?.check()?;
        profile.check_jobs()?;
        Ok(profile)
    }

    /// The steps of `job` that are switched on.
    pub fn steps(&self, job: Job) -> &[Step] {
        match job {
            Job::Install => &self.install,
            Job::Activate => &self.activate,
            Job::Commit => &self.commit,
            Job::RollBack => &self.roll_back,
        }
    }

    /// Refuses a profile that silences what going back depends on: the vehicle must stay provably parked while it is undone.
    pub fn keeps_signals(&self, needed: &[String]) -> Result<(), ProfileError> {
        match self.lost_signals.iter().find(|lost| needed.contains(lost)) {
            Some(lost) => Err(ProfileError::LosesSignal(lost.clone())),
            None => Ok(()),
        }
    }

    fn check_jobs(&self) -> Result<(), ProfileError> {
        let job_error = |job: Job, problem| Err(ProfileError::Job { job: job.as_str(), problem });
        let at = |job: Job, kind: fn(&StepKind) -> bool| self.steps(job).iter().position(|step| kind(&step.kind));
        let install = Job::Install;
        let write = at(install, |kind| *kind == StepKind::Write);
        let verify = at(install, |kind| *kind == StepKind::Verify);
        for job in Job::ALL {
            // Leave to disrupt the ECU is asked once it is identified, so nothing may happen before that.
            let is_session = |step: &&Step| match step.kind {
                StepKind::Session { reboots, session } => !reboots && session != SessionType::Programming,
                _ => false,
            };
            match self.steps(job).iter().find(|step| !is_session(step)).map(|step| &step.kind) {
                Some(StepKind::Identify) | None => {}
                Some(StepKind::Session { .. }) => {
                    return job_error(job, "a session that programs or reboots comes after the identify step");
                }
                Some(_) => return job_error(job, "begins with its session and an identify step"),
            }
            let writes = self.steps(job).iter().filter(|step| step.kind == StepKind::Write).count();
            if writes != usize::from(job == install) {
                return job_error(job, "the write step stands once in install and nowhere else");
            }
        }
        let dual_jobs = [Job::Activate, Job::Commit, Job::RollBack];
        match self.banks {
            Banks::Single if verify < write => job_error(install, "of a single-bank ECU ends with a verify step"),
            Banks::Single if dual_jobs.iter().any(|job| !self.steps(*job).is_empty()) => {
                job_error(Job::Activate, "a single-bank ECU has install only")
            }
            Banks::Single => Ok(()),
            Banks::Dual if verify.is_some() => {
                job_error(install, "of a dual-bank ECU leaves the running software: no verify step")
            }
            Banks::Dual => self.check_dual_jobs(),
        }
    }

    fn check_dual_jobs(&self) -> Result<(), ProfileError> {
        let job_error = |job: Job, problem| Err(ProfileError::Job { job: job.as_str(), problem });
        for job in [Job::Activate, Job::RollBack] {
            if !self.steps(job).iter().any(|step| step.kind == StepKind::Verify) {
                return job_error(job, "ends with a verify step");
            }
        }
        // These two are done without leave, maybe while the vehicle drives.
        for job in [Job::Install, Job::Commit] {
            if self.steps(job).iter().any(|step| step.kind.restarts_software()) {
                return job_error(job, "asks nobody for leave, so no step may reset the ECU or start other software");
            }
        }
        if self.commit.is_empty() { job_error(Job::Commit, "is needed for a dual-bank ECU") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
