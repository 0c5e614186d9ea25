use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use pitstop_bundle_io::Keyring;
use pitstop_runtime::{Args, Context, Operations};

use crate::adapters::{BusSafety, CanLinks, FileKeys, Times, ValidatorBundles};
use crate::bus::FlasherObject;
use crate::config::{self, Settings};
use crate::service::{Flasher, Parts};

/// The service's program.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("flasher", args, run)
}

async fn run(context: Context) -> anyhow::Result<()> {
    let settings: Settings = context.config()?;
    let vehicle = config::vehicle(&context.path(&settings.vehicle))?;
    let profiles = config::profiles(&context.path(&settings.profiles), &vehicle, &settings.undo_signals)?;
    let keyring = context.path(&settings.keyring);
    let pem = std::fs::read(&keyring).with_context(|| format!("reading the keyring {}", keyring.display()))?;
    let keyring = Keyring::from_pem(&pem).with_context(|| format!("the keyring {} is refused", keyring.display()))?;
    let storage = context.storage()?;
    let times = Arc::new(Times::new(storage.clone(), pitstop_runtime::wall_clock));
    let bus = context.bus().await?;
    let flasher = Flasher::new(Parts {
        links: Arc::new(CanLinks::new(context.root().to_owned(), &vehicle)),
        bundles: Arc::new(ValidatorBundles::new(bus.clone(), keyring, times.clone())),
        safety: Arc::new(BusSafety::new(bus.clone(), times)),
        keys: Arc::new(FileKeys::new(context.path(&settings.secrets))),
        storage: storage.clone(),
        vehicle,
        profiles,
    })?;
    let operations = Operations::new(&bus, "Flasher", storage).await?;
    let object = FlasherObject::new(Arc::new(flasher), operations);
    bus.object_server().at(pitstop_dbus::object_path("Flasher"), object).await?;
    context.ready(&bus, "Flasher").await?;
    context.until_shutdown().await;
    Ok(())
}
