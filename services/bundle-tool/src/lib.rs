//! `pitstop-bundle`: build, sign, inspect and verify bundles, on a release engineer's machine.
//!
//! One module per verb: [`build`] from a [`release`] description, [`show`] for `info` and `verify`, [`keys`] for a development authority.

mod build;
mod keys;
pub mod release;
mod show;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use pitstop_bundle_io::{BundleError, Keyring};

/// Builds and reads Pitstop's update bundles (RAUC verity bundles, one ECU's software each).
#[derive(Debug, Parser)]
#[command(name = "pitstop-bundle", version, max_term_width = 110)]
pub struct Arguments {
    /// Print one JSON object on standard output instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bar.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a signed bundle from a release description, or from a root file system for the TCU.
    Build(build::BuildArguments),
    /// Show what a bundle is; its signature is checked, its content is not read.
    Info(show::InfoArguments),
    /// Check a bundle as a vehicle does: signature, every block, every file, every segment.
    Verify(show::VerifyArguments),
    /// Make a development authority and a signer (never for production).
    Keys(keys::KeysArguments),
    /// Make a development authority for testers and one tester that it lets into the TCU (never for production).
    Tester(keys::TesterArguments),
}

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let output = Output { json: arguments.json, quiet: arguments.quiet };
    match arguments.verb {
        Verb::Build(build) => build::run(&build, output),
        Verb::Info(info) => show::info(&info, output),
        Verb::Verify(verify) => show::verify(&verify, output),
        Verb::Keys(keys) => keys::run(&keys, output),
        Verb::Tester(tester) => keys::run_tester(&tester, output),
    }
}

/// Prints an error: with `--json` an object with its name on standard output, otherwise a line on standard error.
pub fn report(error: &anyhow::Error, json: bool) {
    let name = error.downcast_ref::<BundleError>().map_or("Failed", BundleError::name);
    if json {
        println!("{}", serde_json::json!({ "error": { "name": name, "text": format!("{error:#}") } }));
    } else {
        eprintln!("pitstop-bundle: {name}: {error:#}");
    }
}

/// How to talk to whoever called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// A bar over `total` bytes on standard error; hidden where nobody looks.
    pub(crate) fn bar(self, total: u64, what: &'static str) -> indicatif::ProgressBar {
        if self.quiet || self.json {
            return indicatif::ProgressBar::hidden();
        }
        let style =
            indicatif::ProgressStyle::with_template("{msg:10} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
        let bar = indicatif::ProgressBar::new(total).with_message(what);
        match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

/// Which keyring to believe, as of when.
#[derive(Debug, clap::Args)]
pub struct Trust {
    /// Trusted certificates, PEM.
    #[arg(long, value_name = "FILE")]
    keyring: PathBuf,
    /// Revocation lists, PEM.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// Judge certificates as of this time (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    time: Option<chrono::DateTime<chrono::Utc>>,
}

impl Trust {
    fn keyring(&self) -> anyhow::Result<Keyring> {
        let keyring = Keyring::from_pem(&read(&self.keyring)?).map_err(BundleError::Signature)?;
        match &self.crl {
            Some(path) => Ok(keyring.with_crls(&read(path)?).map_err(BundleError::Signature)?),
            None => Ok(keyring),
        }
    }

    fn now(&self) -> i64 {
        self.time.unwrap_or_else(chrono::Utc::now).timestamp()
    }
}

fn read(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
