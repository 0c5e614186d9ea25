use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pitstop_bundle_io::build::TcuSoftware;
use pitstop_bundle_io::{Builder, BundleError, Signer};
use pitstop_types::{HardwareId, ReleaseCounter, SoftwareVersion};

use crate::release::Release;
use crate::{Output, read};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A release description is TOML:\n\n  hardware = \"bcm-a1\"\n  version = \"2.0.0\"\n  software_number = \"PS-BCM-0001\"\n  \
    release_counter = 2\n  identity_address = 0x08000000\n  [[firmware]]\n  file = \"fw_jump.bin\"\n  address = 0x08010000"
)]
pub struct BuildArguments {
    /// Release description of an ECU's software, TOML.
    #[arg(value_name = "RELEASE.toml", required_unless_present = "rootfs", conflicts_with = "rootfs")]
    release: Option<PathBuf>,
    /// Root file system image: makes a bundle for the TCU.
    #[arg(long, value_name = "FILE", requires_all = ["hardware", "software_version", "release_counter"])]
    rootfs: Option<PathBuf>,
    /// Hardware id, with --rootfs.
    #[arg(long, value_name = "ID", requires = "rootfs")]
    hardware: Option<HardwareId>,
    /// Software version, with --rootfs.
    #[arg(long = "software-version", value_name = "VERSION", requires = "rootfs")]
    software_version: Option<SoftwareVersion>,
    /// Release counter, with --rootfs.
    #[arg(long, value_name = "N", requires = "rootfs")]
    release_counter: Option<u64>,
    /// Signer's certificate, PEM; intermediates behind it.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Signer's key, PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The bundle to make.
    #[arg(long, short, value_name = "FILE.raucb")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &BuildArguments, output: Output) -> anyhow::Result<()> {
    let signer = Signer::from_pem(&read(&arguments.cert)?, &read(&arguments.key)?).map_err(BundleError::Signature)?;
    let builder = builder(arguments)?;
    let bar = output.bar(0, "building");
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let built = builder.write(&arguments.out, &signer);
    bar.finish_and_clear();
    let built = built?;
    if output.json {
        println!("{}", serde_json::to_string(&built)?);
    } else {
        println!("{}: {} bytes", built.path.display(), built.length);
        println!("sha256         {}", built.sha256);
        println!("manifest hash  {}", built.manifest_hash);
    }
    Ok(())
}

fn builder(arguments: &BuildArguments) -> anyhow::Result<Builder> {
    if let Some(path) = &arguments.release {
        let folder = path.parent().unwrap_or(Path::new("."));
        return Ok(Builder::ecu(&Release::read(path)?.load(folder)?)?);
    }
    let software = TcuSoftware {
        hardware: arguments.hardware.clone().context("--hardware is needed")?,
        version: arguments.software_version.clone().context("--software-version is needed")?,
        counter: ReleaseCounter(arguments.release_counter.context("--release-counter is needed")?),
        rootfs: arguments.rootfs.clone().context("--rootfs is needed")?,
    };
    Ok(Builder::tcu(&software)?)
}
