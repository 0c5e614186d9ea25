//! Starting the service, and the boot decision as a tool.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pitstop_boot_env::{FileCopy, GrubFiles, boot_decision, booted_slot_of_file};
use pitstop_runtime::{Args, Context, Operations};
use tokio::sync::Mutex;

use crate::adapters::{BusPeers, SlotPaths};
use crate::bus::{SelfUpdate, Workshop};
use crate::config::{self, Input, Loader, Settings};
use crate::core::{Core, CoreHandle};
use crate::service::Service;
use crate::trial_guard::Reason;
use crate::workshop::Holds;

/// Runs the service until it is told to end.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("self-update", args, start)
}

async fn start(context: Context) -> anyhow::Result<()> {
    let settings = Settings::new(context.config::<Input>()?, context.root(), |path| context.path(path))?;
    let booted = booted_slot_of_file(&settings.cmdline, &settings.slots)
        .with_context(|| format!("finding the booted slot in {}", settings.cmdline.display()))?;
    let storage = context.storage()?;
    // Before the bus: a slot that runs well must be marked good even when the bus does not come up.
    let mut core = Core::start(storage.clone(), settings.boot_env(), settings.slots.clone(), booted.clone())?;
    let lease = Duration::from_secs(u64::from(settings.lease_secs));
    core.resume_lease(lease, Instant::now());
    let bus = context.bus().await?;
    let operations = Operations::new(&bus, "SelfUpdate", storage).await?;
    let service = Arc::new(Service {
        core: CoreHandle::spawn(core),
        peers: BusPeers(bus.clone()),
        slots: settings.slots,
        booted: booted.clone(),
        devices: Arc::new(SlotPaths(settings.devices.clone())),
        paths: settings.devices,
        operations,
        keyring: settings.keyring,
        hardware: settings.hardware,
        lease,
        reboot_command: settings.reboot_command,
        reason: Reason::path(context.root()),
        reboot_timeout: settings.reboot_timeout,
        writer: Arc::new(Mutex::new(())),
        holds: Holds::default(),
    });
    let path = pitstop_dbus::object_path("SelfUpdate");
    bus.object_server().at(path.clone(), SelfUpdate(Arc::clone(&service))).await?;
    bus.object_server().at(path, Workshop(Arc::clone(&service))).await?;
    tokio::spawn(async move { service.look_after_holds().await });
    context.ready(&bus, "SelfUpdate").await?;
    context.status(&format!("slot {booted} runs"));
    context.until_shutdown().await;
    Ok(())
}

/// `pitstopd boot-decision --root DIR`: does to the boot environment what the boot script does, and prints one line of JSON:
/// `{"slot":"B","why":"preferred","saved":true}`. For machines that have no boot loader of their own.
pub fn boot_decision_main(args: Args) -> ExitCode {
    match decide(&args) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("boot-decision: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn decide(args: &Args) -> anyhow::Result<String> {
    let input: Input = pitstop_runtime::load_config(&args.root, "self-update")?;
    let below = |path: &Path| args.root.join(path.strip_prefix("/").unwrap_or(path));
    let (slots, _) = config::slots(&input, below)?;
    anyhow::ensure!(input.boot.loader == Loader::Grub, "the boot decision is made here for GRUB's environment only");
    let copy = |path: &Path| FileCopy::new(below(path));
    let env = GrubFiles::new(copy(&input.boot.grubenv), copy(&input.boot.grubenv_copy), slots.clone());
    let decision = boot_decision(&env, &slots);
    let line = serde_json::json!({ "slot": decision.slot, "why": decision.why, "saved": decision.saved });
    Ok(line.to_string())
}
