//! Puts the service together: settings, key, roots, keyring, bus.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use pitstop_bundle_io::Keyring;
use pitstop_dbus::{BackendLinkProxy, FlasherProxy, SelfUpdateProxy};
use pitstop_flashing::Vehicle;
use pitstop_runtime::{Context, Operations};
use pitstop_tpm::floor::{self, Floor};
use pitstop_tpm::{KeyRole, KeySettings};
use pitstop_types::{EcuId, HardwareId};
use pitstop_uptane::{Generation, MAX_SMALL};

use crate::adapters::{BackendLink, Ecus, IdentityKey};
use crate::bus::Bus;
use crate::config::Settings;
use crate::{Parts, Validator};

pub(crate) async fn start(context: Context) -> anyhow::Result<()> {
    let settings: Settings = context.config()?;
    let storage = context.storage()?;
    let bus = context.bus().await?;
    let parts = parts(&context, settings, &bus, storage.clone()).await?;
    let validator = Arc::new(Validator::open(parts).context("opening the stores")?);
    let operations = Operations::new(&bus, "Validator", storage).await?;
    let object = Bus { validator, operations };
    bus.object_server().at(pitstop_dbus::object_path("Validator"), object).await?;
    context.ready(&bus, "Validator").await?;
    context.until_shutdown().await;
    Ok(())
}

async fn parts(
    context: &Context,
    settings: Settings,
    bus: &zbus::Connection,
    storage: Arc<dyn pitstop_store::Storage>,
) -> anyhow::Result<Parts> {
    let vehicle = Vehicle::read(&text(&context.path(&settings.vehicle))?)?;
    let ecus = fitted(&vehicle);
    let mut keyring = Keyring::from_pem(text(&context.path(&settings.keyring))?.as_bytes())?;
    if !settings.crls.is_empty() {
        keyring = keyring.with_crls(text(&context.path(&settings.crls))?.as_bytes())?;
    }
    let versions = Ecus {
        flasher: FlasherProxy::new(bus).await?,
        self_update: SelfUpdateProxy::new(bus).await?,
        fitted: ecus.clone(),
        tcu_serial: vehicle.tcu.serial.unwrap_or_default(),
    };
    Ok(Parts {
        storage,
        bundles: context.state_dir().join("bundles"),
        reserve: settings.reserve_bytes,
        vin: vehicle.vin,
        ecus,
        factory: factory(&context.path(&settings.roots))?,
        keyring,
        tcu_floor: tcu_floor(settings.key.clone()).await?,
        identity: Arc::new(identity(context, settings.key).await?),
        metadata: Arc::new(BackendLink { proxy: BackendLinkProxy::new(bus).await? }),
        versions: Arc::new(versions),
        clock: pitstop_runtime::wall_clock,
    })
}

fn fitted(vehicle: &Vehicle) -> BTreeMap<EcuId, HardwareId> {
    let tcu = (EcuId::tcu(), vehicle.tcu.hardware.clone());
    vehicle.ecus.iter().map(|(id, ecu)| (id.clone(), ecu.hardware.clone())).chain([tcu]).collect()
}

/// The key is made at the first start, which is part of provisioning: the backend is told its public half.
async fn identity(context: &Context, mut settings: KeySettings) -> anyhow::Result<IdentityKey> {
    settings.file = settings.file.map(|file| context.path(file));
    let key = tokio::task::spawn_blocking(move || pitstop_tpm::ensure(&settings, KeyRole::Identity)).await?;
    IdentityKey::new(key.context("finding or making the identity key")?)
}

async fn tcu_floor(settings: KeySettings) -> anyhow::Result<Option<Arc<dyn Floor>>> {
    let floor = tokio::task::spawn_blocking(move || floor::open(&settings)).await?;
    floor.context("finding or making the TCU's rollback floor (see the validator's README)")
}

fn factory(folder: &Path) -> anyhow::Result<Generation> {
    let root = |repository: &str| text(&folder.join(repository).join("root.json"));
    let (director, image) = (root("director")?, root("image")?);
    anyhow::ensure!(director.len() <= MAX_SMALL && image.len() <= MAX_SMALL, "a root is longer than {MAX_SMALL} bytes");
    Ok(Generation::initial(director, image))
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
