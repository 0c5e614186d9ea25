//! Everything a demonstration consists of, wired together.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use pitstop_dbus::{BackendLinkProxy, FlasherProxy, SelfUpdateProxy};
use pitstop_types::EcuId;
use serde::Serialize;
use serde_json::json;
use zbus::Connection;

use crate::backend::{Backend, Hosting};
use crate::bus::Bus;
use crate::firmware::Firmware;
use crate::programs::Programs;
use crate::simulator::Simulator;
use crate::tcu::{Tcu, Wiring};
use crate::tpm::Tpm;

/// The demonstration's vehicle.
pub const VIN: &str = "WP0ZZZ99ZTS392124";

/// What one control unit runs, read back from itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EcuVersion {
    pub id: String,
    pub bus: String,
    pub banks: String,
    pub version: String,
}

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Times real time.
    pub bus_speed: f64,
    /// Folder to use and keep; a temporary one otherwise.
    pub dir: Option<PathBuf>,
    /// Told as each part starts.
    pub quiet: bool,
    pub backend: Hosting,
    /// Bytes of noise in the TCU's root file systems, for bundles as large as real ones.
    pub tcu_bulk_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, bus_speed: 1.0, dir: None, quiet: false, backend: Hosting::Process, tcu_bulk_bytes: 0 }
    }
}

/// A vehicle, its backend, and what joins them. Dropping it ends all of it.
#[derive(Debug)]
pub struct World {
    pub tcu: Tcu,
    pub backend: Backend,
    pub simulator: Simulator,
    pub bus: Bus,
    pub connection: Connection,
    pub release: String,
    pub firmware: Firmware,
    pub programs: Programs,
    _tpm: Tpm,
    pub dir: PathBuf,
    /// Removes the folder at the end, if it is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

impl World {
    /// Starts everything, provisions the vehicle, publishes both releases. The vehicle's first manifest is not sent yet.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let say = |text: &str| {
            if !options.quiet {
                eprintln!("==> {text}");
            }
        };
        // Whoever installed one before chose the same: it is the only one in the workspace.
        let _ = rustls::crypto::ring::default_provider().install_default();
        pitstop_dbus::access::join_group_as_root(pitstop_dbus::access::ADMIN_GROUP);
        let programs = Programs::find()?;
        let (dir, temporary) = folder(options)?;
        let logs = dir.join("log");
        fs::create_dir_all(&logs)?;
        say("signing real firmware into bundles, before and after");
        let firmware = Firmware::make(&dir.join("firmware"), &programs.bundle_tool, options.tcu_bulk_bytes)?;
        say("backend and broker");
        let backend =
            Backend::start(&dir.join("backend"), &programs.backend, options.backend, &firmware.keyring, &logs).await?;
        let release =
            backend.rest().publish(&firmware.before, &firmware.after).await.context("publishing the releases")?;
        say("simulated control units and their buses");
        let simulator = start_simulator(&dir, &programs, options, &logs).await?;
        say("TPM and private bus");
        let tpm = Tpm::start(&dir, &logs).await?;
        let root = dir.join("tcu");
        fs::create_dir_all(&root)?;
        let policies = root.join("usr/share/dbus-1/system.d");
        let separate = nix::unistd::geteuid().is_root();
        let overrides = overrides(&programs.overlay, &backend, &simulator, &tpm)?;
        let bus_address = format!("unix:path={}", dir.join("bus.sock").display());
        let wiring = Wiring {
            bus: &bus_address,
            overrides: &overrides,
            keyring: &firmware.keyring,
            director_root: &backend.dir.join("uptane/director/root.json"),
            image_root: &backend.dir.join("uptane/image/root.json"),
            rootfs: &firmware.rootfs_before,
        };
        let mut tcu = Tcu::build(&root, &programs.overlay, &programs.pitstopd, &logs, &wiring)?;
        let bus = Bus::start(&dir, &logs, separate.then_some(policies.as_path())).await?;
        say(if separate {
            "the TCU's services, each as its own user under the bus policy"
        } else {
            "the TCU's services, all as you (as root each has its own user)"
        });
        tcu.boot()?;
        let connection = bus.connect().await?;
        let world = Self {
            tcu,
            backend,
            simulator,
            bus,
            connection,
            release,
            firmware,
            programs,
            _tpm: tpm,
            dir,
            _temporary: temporary,
        };
        world.wait_for_services().await?;
        say("provisioning the vehicle with keys in its TPM");
        world.provision().await?;
        Ok(world)
    }

    /// Waits until every service that is not masked owns its name.
    pub async fn wait_for_services(&self) -> anyhow::Result<()> {
        let bus = zbus::fdo::DBusProxy::new(&self.connection).await?;
        let names = [
            ("Manager", "manager"),
            ("BackendLink", "backend-link"),
            ("Downloader", "downloader"),
            ("Validator", "validator"),
            ("Hmi", "hmi"),
            ("Flasher", "flasher"),
            ("SelfUpdate", "self-update"),
            ("UdsServer", "uds-server"),
            ("VehicleState", "vehicle-state"),
        ];
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        for (name, service) in names {
            if self.tcu.is_masked(service) {
                continue;
            }
            let full = zbus::names::BusName::try_from(pitstop_dbus::bus_name(name))?;
            while !bus.name_has_owner(full.clone()).await? {
                if tokio::time::Instant::now() > deadline {
                    bail!("{name} did not start in 30 s; see the logs in {}", self.dir.join("log").display());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn provision(&self) -> anyhow::Result<()> {
        let token = self.backend.rest().register(VIN).await.context("registering the vehicle")?;
        let link = BackendLinkProxy::new(&self.connection).await?;
        let operation = link.provision(&token).await?;
        pitstop_runtime::operation::wait(&self.connection, "BackendLink", &operation, |_| {})
            .await
            .context("provisioning")?;
        Ok(())
    }

    /// Asks every control unit what it runs.
    pub async fn versions(&self) -> anyhow::Result<Vec<EcuVersion>> {
        let flasher = FlasherProxy::new(&self.connection).await?;
        let described = flasher.list_ecus().await?;
        let read = flasher.read_versions(&[]).await?;
        let slots = SelfUpdateProxy::new(&self.connection).await?.get_slots().await?;
        let booted = slots.iter().find(|s| s.booted).context("no slot is booted")?;
        let tcu = EcuId::tcu().to_string();
        let mut all =
            vec![EcuVersion { id: tcu, bus: "-".into(), banks: "slots".into(), version: booted.version.clone() }];
        for ecu in described {
            let version = read.iter().find(|v| v.ecu == ecu.ecu).map(|v| v.version.clone()).unwrap_or_default();
            all.push(EcuVersion { id: ecu.ecu, bus: ecu.bus, banks: ecu.banks, version });
        }
        Ok(all)
    }

    /// SHA-256 of both slots' files.
    pub fn slot_digests(&self) -> anyhow::Result<Vec<String>> {
        let slots = self.tcu.root.join("slots");
        ["a.img", "b.img"]
            .iter()
            .map(|f| Ok(pitstop_types::Digest::of(&fs::read(slots.join(f))?).to_string()))
            .collect()
    }

    /// The backend's state of this vehicle's newest assignment and why; without one, what the vehicle last reported.
    pub async fn backend_state(&self) -> anyhow::Result<serde_json::Value> {
        let rest = self.backend.rest();
        let vehicle = rest.get(&format!("/api/v1/vehicles/{VIN}")).await?;
        if let Some(newest) = vehicle["assignments"].as_array().and_then(|all| all.last()) {
            return Ok(json!({ "vehicle": newest["state"], "reason": newest["reason"], "update": newest["id"] }));
        }
        let timeline = rest.get(&format!("/api/v1/vehicles/{VIN}/timeline")).await?;
        let events = timeline["events"].as_array().cloned().unwrap_or_default();
        let reported = events.iter().find(|event| event["kind"] == "status").cloned().unwrap_or_default();
        Ok(json!({ "vehicle": reported["data"]["result"], "reason": reported["text"], "update": null }))
    }
}

fn folder(options: &Options) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(dir) = &options.dir {
        fs::create_dir_all(dir)?;
        return Ok((dir.canonicalize()?, None));
    }
    let temporary = tempfile::Builder::new().prefix("pitstop-").tempdir()?;
    // The services' users must reach their folders below it.
    fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

async fn start_simulator(dir: &Path, programs: &Programs, options: &Options, logs: &Path) -> anyhow::Result<Simulator> {
    let hub = dir.join("tcu/run/pitstop/hub.sock");
    fs::create_dir_all(dir.join("tcu/run/pitstop"))?;
    let simulator = Simulator::start(
        &dir.join("ecus"),
        &hub,
        &programs.ecu_sim,
        &programs.vehicle,
        options.bus_speed,
        options.seed,
        logs,
    )
    .await?;
    // Any service that has CAN may use the hub, as any process in CAN's group may use a real interface.
    fs::set_permissions(&simulator.hub, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Ok(simulator)
}

/// The integrator's configuration of this vehicle: what the overlay's defaults cannot know.
fn overrides(
    overlay: &Path,
    backend: &Backend,
    simulator: &Simulator,
    tpm: &Tpm,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let vehicle = fs::read_to_string(overlay.join("etc/pitstop/vehicle.toml"))?;
    let vehicle = vehicle.replace("tcp:127.0.0.1:13400", &format!("tcp:{}", simulator.doip));
    let public = backend.ready["public"].as_str().context("the backend did not tell its public address")?;
    let public = if public.starts_with("https") { public.to_owned() } else { format!("https://{public}") };
    let key = format!("[key]\nstore = \"tpm\"\ntcti = \"{}\"\n", tpm.tcti);
    Ok(vec![
        ("vehicle.toml", vehicle),
        ("validator.toml", key.clone()),
        ("backend-link.toml", format!("provision_url = \"{public}\"\n{key}")),
        (
            "self-update.toml",
            "cmdline = \"/run/cmdline\"\nreboot_command = [\"/usr/bin/touch\", \"{root}/run/pitstop/restart/request\"]\n\
             [slots.A]\ndevice = \"/slots/a.img\"\n[slots.B]\ndevice = \"/slots/b.img\"\n"
                .to_owned(),
        ),
        ("uds-server.toml", "listen = \"127.0.0.1:0\"\n".to_owned()),
        ("backend-ca.pem", fs::read_to_string(backend.dir.join("tls/server-ca.pem"))?),
    ])
}
