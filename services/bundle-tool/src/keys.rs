use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pitstop_bundle_io::keys::{Identity, Usage, identity};

use crate::Output;

#[derive(Debug, clap::Args)]
pub struct KeysArguments {
    /// Folder for ca.cert.pem, ca.key.pem, signer.cert.pem, signer.key.pem and keyring.pem. Existing files are not replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Name in the certificates.
    #[arg(long, default_value = "Pitstop bundles (development)")]
    name: String,
    /// Days the signer's certificate is valid; the authority's lasts ten times as long.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

pub(crate) fn run(arguments: &KeysArguments, output: Output) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("making {}", arguments.out.display()))?;
    // A vehicle whose clock runs an hour behind believes the certificate too.
    let not_before = chrono::Utc::now().timestamp() - 3600;
    let ca = identity(&format!("{} CA", arguments.name), Usage::Authority, None, not_before, arguments.days * 10)?;
    let signer = identity(&arguments.name, Usage::BundleSigner, Some(&ca), not_before, arguments.days)?;
    write(&arguments.out, "ca", &ca)?;
    write(&arguments.out, "signer", &signer)?;
    create(&arguments.out.join("keyring.pem"), &ca.certificate_pem()?, 0o644)?;
    if output.json {
        println!(
            "{}",
            serde_json::json!({ "keyring": arguments.out.join("keyring.pem"), "cert": arguments.out.join("signer.cert.pem"), "key": arguments.out.join("signer.key.pem") })
        );
    } else {
        println!("made ca.*.pem, signer.*.pem and keyring.pem in {}", arguments.out.display());
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct TesterArguments {
    /// Folder for testers.pem (the authority, for /usr/lib/pitstop), tester.cert.pem and tester.key.pem. Existing files are not replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Name in the tester's certificate; it goes into the TCU's journal.
    #[arg(long, default_value = "Pitstop tester (development)")]
    name: String,
    /// Days the tester's certificate is valid; the authority's lasts ten times as long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

pub(crate) fn run_tester(arguments: &TesterArguments, output: Output) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("making {}", arguments.out.display()))?;
    let not_before = chrono::Utc::now().timestamp() - 3600;
    let ca = identity(&format!("{} CA", arguments.name), Usage::Authority, None, not_before, arguments.days * 10)?;
    let tester = identity(&arguments.name, Usage::Tester, Some(&ca), not_before, arguments.days)?;
    create(&arguments.out.join("testers.pem"), &ca.certificate_pem()?, 0o644)?;
    write(&arguments.out, "tester", &tester)?;
    if output.json {
        let (cert, key) = (arguments.out.join("tester.cert.pem"), arguments.out.join("tester.key.pem"));
        println!("{}", serde_json::json!({ "testers": arguments.out.join("testers.pem"), "cert": cert, "key": key }));
    } else {
        println!("made testers.pem and tester.*.pem in {}", arguments.out.display());
    }
    Ok(())
}

fn write(folder: &Path, name: &str, identity: &Identity) -> anyhow::Result<()> {
    create(&folder.join(format!("{name}.cert.pem")), &identity.certificate_pem()?, 0o644)?;
    create(&folder.join(format!("{name}.key.pem")), &identity.key_pem()?, 0o600)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))
}
