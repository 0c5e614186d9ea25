//! Running other programs and saying what went wrong with them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a command of xtask ends badly; the text says what to do.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    /// Exit status for the caller.
    pub status: u8,
}

pub type Outcome = Result<(), Failure>;

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: 1 }
    }
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Whether a program is on the path (or in the folders where servers live).
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|folder| folder.join(program).is_file())
}

pub fn is_root() -> bool {
    let uid = Command::new("id").arg("-u").output();
    uid.is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Refuses what a command does not know: a slip in a flag must not start the work that the flag was to prevent.
/// `flags` stand alone, each of `valued` has a word behind it.
pub fn known_flags(command: &str, args: &[String], flags: &[&str], valued: &[&str]) -> Outcome {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if valued.contains(&word.as_str()) {
            if words.next().is_none_or(|value| value.starts_with("--")) {
                return Err(Failure::new(format!("{word} needs a word behind it; see cargo xtask {command} --help")));
            }
        } else if !flags.contains(&word.as_str()) {
            return Err(Failure::new(format!("cargo xtask {command} does not know {word:?}; see --help")));
        }
    }
    Ok(())
}

/// Runs a step with its output on the terminal; tells its name before and its time after.
pub fn step(name: &str, command: &mut Command) -> Outcome {
    eprintln!("==> {name}");
    let start = Instant::now();
    let status = command.status().map_err(|e| Failure::new(format!("{name}: cannot start {command:?}: {e}")))?;
    eprintln!("    {name}: {:.1} s", start.elapsed().as_secs_f32());
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1);
    Err(Failure { text: format!("{name} failed ({status})"), status: code })
}

/// Standard output of a program, or why there is none.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| Failure::new(format!("cannot start {command:?}: {e}")))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(Failure::new(format!("{command:?} failed ({})", out.status)))
    }
}

/// Seconds with one decimal, for JSON.
pub fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_does_not_know_is_refused_by_name() {
        let said = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            known_flags("setup", &words, &["--check", "--json"], &["--tag"]).map_err(|failure| failure.text)
        };
        for good in ["", "--json --check", "--tag name --check"] {
            assert_eq!(said(good), Ok(()), "{good}");
        }
        for (words, part) in [
            ("--chek", "does not know \"--chek\""),
            ("--check now", "does not know \"now\""),
            ("--tag", "--tag needs a word"),
            ("--tag --check", "--tag needs a word"),
        ] {
            assert!(said(words).unwrap_err().contains(part), "{words}");
        }
    }
}
