//! How fast the manager's status call answers, idle and while an installation runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pitstop_dbus::ManagerProxy;
use pitstop_end_to_end::process::Start;
use pitstop_end_to_end::programs::Programs;
use serde_json::{Value, json};

use crate::Arguments;

/// Latencies of one kind, in microseconds.
#[derive(Debug, Default)]
struct Sample(Vec<u64>);

impl Sample {
    fn at(&self, share: f64) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or(0)
    }

    fn json(&self) -> Value {
        json!({ "calls": self.0.len(), "median_us": self.at(0.5), "p99_us": self.at(0.99), "max_us": self.at(1.0) })
    }
}

pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let programs = Programs::find()?;
    let folder = tempfile::Builder::new().prefix("pitstop-bench-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let demo = programs.pitstopctl.with_file_name("pitstop-demo");
    let speed = arguments.bus_speed.to_string();
    let dir = folder.path().display().to_string();
    let words = ["--auto", "--json", "--bus-speed", &speed, "--dir", &dir].map(str::to_owned).to_vec();
    let start = Start { name: "demo", program: demo, args: words, user: None, environment: Vec::new() };
    let mut running = start.spawn(folder.path())?;
    let address = format!("unix:path={}/bus.sock", folder.path().display());
    let (mut idle, mut installing, mut command) = (Sample::default(), Sample::default(), Sample::default());
    while running.is_running() {
        // The bus comes and the manager goes while the TCU restarts; only answers are measured.
        if let Err(error) = measure(&address, &programs.pitstopctl, &mut idle, &mut installing, &mut command).await {
            log(&error);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    ensure!(
        !installing.0.is_empty(),
        "the installation was never seen; see {}",
        folder.path().join("demo.err").display()
    );
    let ratio = installing.at(0.5) as f64 / idle.at(0.5).max(1) as f64;
    let report = json!({
        "idle": idle.json(), "installing": installing.json(), "pitstopctl_while_installing": command.json(), "median_ratio": ratio
    });
    println!("GetStatus idle:          {} calls, median {} us, p99 {} us", idle.0.len(), idle.at(0.5), idle.at(0.99));
    println!(
        "GetStatus installing:    {} calls, median {} us, p99 {} us, ratio of medians {ratio:.2}",
        installing.0.len(),
        installing.at(0.5),
        installing.at(0.99)
    );
    println!("pitstopctl status --json while installing: {} runs, median {} us", command.0.len(), command.at(0.5));
    if arguments.json {
        println!("{report}");
    }
    Ok(())
}

fn log(error: &anyhow::Error) {
    if std::env::var_os("PITSTOP_LOG").is_some() {
        eprintln!("{error:#}");
    }
}

/// Measures until the bus or the manager goes away.
async fn measure(
    address: &str,
    pitstopctl: &Path,
    idle: &mut Sample,
    installing: &mut Sample,
    command: &mut Sample,
) -> anyhow::Result<()> {
    let connection = zbus::connection::Builder::address(address).build().await.context("the bus")?;
    let manager = ManagerProxy::new(&connection).await?;
    let mut turn = 0_u32;
    loop {
        let start = Instant::now();
        let (status, _) = manager.get_status().await?;
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let busy = ["stag", "activ", "download", "admit"].iter().any(|word| status.phase.contains(word));
        if busy {
            installing.0.push(took);
        } else {
            idle.0.push(took);
        }
        turn += 1;
        if busy && turn.is_multiple_of(20) {
            let start = Instant::now();
            let done = Command::new(pitstopctl)
                .args(["status", "--json"])
                .env("DBUS_SYSTEM_BUS_ADDRESS", address)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if done.success() {
                command.0.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
