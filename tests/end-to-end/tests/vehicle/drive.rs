//! One vehicle, and what a test does with it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pitstop_dbus::{HistoryEntry, ManagerProxy, OtaError, StepStatus, UpdateStatus};
use pitstop_end_to_end::firmware;
use pitstop_end_to_end::world::{EcuVersion, Options, VIN, World};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Between two looks at the vehicle: short against every phase of an update at these bus speeds.
const LOOK: Duration = Duration::from_millis(50);
/// After this the vehicle is told to check, should the hint have been lost.
const HINT_PATIENCE: Duration = Duration::from_secs(8);

/// A running vehicle that the backend knows. Dropping it ends all its programs.
pub struct Drive {
    pub world: World,
    manager: ManagerProxy<'static>,
}

impl Drive {
    /// Starts a vehicle whose buses run ten times as fast, with these files (paths below the root) in place of the demonstration's.
    pub async fn start(overrides: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_with(Options::default(), overrides).await
    }

    /// The same with other options.
    pub async fn start_with(options: Options, overrides: &[(&str, &str)]) -> anyhow::Result<Self> {
        let options = Options { bus_speed: 10.0, quiet: true, ..options };
        let mut world = World::start(&options).await?;
        if !overrides.is_empty() {
            world.tcu.shut_down().await;
            for (file, text) in overrides {
                let path = world.tcu.root.join(file);
                fs::write(&path, text)?;
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            }
            world.tcu.boot()?;
            world.wait_for_services().await?;
        }
        let manager = ManagerProxy::new(&world.connection).await?;
        let drive = Self { world, manager };
        drive.first_check().await.context("the first check")?;
        Ok(drive)
    }

    /// Just after a start the link's key may still be on its way out of the TPM.
    pub async fn first_check(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + HINT_PATIENCE;
        loop {
            match self.check().await {
                Err(error) if Instant::now() < deadline && is_not_provisioned(&error) => sleep(LOOK).await,
                other => return other,
            }
        }
    }

    /// Sends the manifest and asks for an update.
    async fn check(&self) -> anyhow::Result<()> {
        let operation = self.manager.check().await?;
        pitstop_runtime::operation::wait(&self.world.connection, "Manager", &operation, |_| {}).await?;
        Ok(())
    }

    /// Starts the campaign; answers the update's id as soon as the vehicle has begun with it.
    pub async fn begin_update(&mut self) -> anyhow::Result<String> {
        self.world.backend.rest().campaign(&self.world.release, &[VIN]).await?;
        let heard = self.until("an update", HINT_PATIENCE, |status, _| !status.update.is_empty()).await;
        let (status, _) = match heard {
            Ok(found) => found,
            Err(_) => {
                self.check().await.context("the check without a hint")?;
                self.until("an update", HINT_PATIENCE, |status, _| !status.update.is_empty()).await?
            }
        };
        Ok(status.update)
    }

    /// Lets the machine live until the manager's picture is as wanted.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&UpdateStatus, &[StepStatus]) -> bool,
    ) -> anyhow::Result<(UpdateStatus, Vec<StepStatus>)> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        while Instant::now() < deadline {
            self.world.tcu.tick().await?;
            // Nobody answers during a restart.
            if let Ok((status, steps)) = self.manager.get_status().await {
                if wanted(&status, &steps) {
                    return Ok((status, steps));
                }
                last = Some(status);
            }
            sleep(LOOK).await;
        }
        bail!("{what} did not come in {} s; the manager last said {last:?}", limit.as_secs())
    }

    /// Lets the machine live until the manager is in this phase.
    pub async fn until_phase(&mut self, phase: &str, limit: Duration) -> anyhow::Result<UpdateStatus> {
        let found = self.until(phase, limit, |status, _| status.phase == phase).await?;
        Ok(found.0)
    }

    /// Lets the machine live until this update stands in the history, and answers what stands there.
    pub async fn until_ended(&mut self, update: &str, limit: Duration) -> anyhow::Result<HistoryEntry> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.world.tcu.tick().await?;
            let newest = self.manager.get_history(1).await.unwrap_or_default().into_iter().next();
            if let Some(entry) = newest.filter(|entry| entry.update == update) {
                self.world.wait_for_services().await?;
                return Ok(entry);
            }
            sleep(LOOK).await;
        }
        let status = self.manager.get_status().await;
        bail!("update {update} did not end in {} s; the manager says {status:?}", limit.as_secs())
    }

    /// Runs pitstopctl with `--json`: its exit code, and what it printed as JSON.
    pub fn ctl(&self, words: &[&str]) -> anyhow::Result<(i32, Value)> {
        let mut command = Command::new(&self.world.programs.pitstopctl);
        command.args(words).args(["--json", "--address", &self.world.bus.address]);
        let done = command.output().context("starting pitstopctl")?;
        let text = String::from_utf8(done.stdout).context("pitstopctl printed what is no text")?;
        let value =
            serde_json::from_str(text.trim()).with_context(|| format!("pitstopctl {words:?} printed {text:?}"))?;
        Ok((done.status.code().unwrap_or(-1), value))
    }

    /// The same where it must succeed.
    pub fn ctl_ok(&self, words: &[&str]) -> anyhow::Result<Value> {
        let (code, value) = self.ctl(words)?;
        ensure!(code == 0, "pitstopctl {words:?} ended with {code}: {value}");
        Ok(value)
    }
}

fn is_not_provisioned(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<OtaError>(), Some(OtaError::NotProvisioned(_)))
}

/// Which of its two releases each control unit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Old,
    New,
}

/// Whether every control unit but these runs this release, as read from itself.
pub fn all_run(release: Release, versions: &[EcuVersion], but: &[&str]) -> anyhow::Result<()> {
    for (id, old, new) in firmware::versions() {
        let wanted = if release == Release::New { new } else { old };
        let found = versions.iter().find(|ecu| ecu.id == id).with_context(|| format!("{id} was not read"))?;
        ensure!(but.contains(&id) || found.version == wanted, "{id} runs {:?}, wanted is {wanted}", found.version);
    }
    Ok(())
}
