//! Programs the world consists of: started under the right user, logged, ended with us.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take until it is ready. Debug builds on a loaded machine are slow to start.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a program may take to end after SIGTERM, before SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    output: PathBuf,
}

/// How to start one.
#[derive(Debug)]
pub struct Start<'a> {
    pub name: &'a str,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// System user to run as; `None`: as we are.
    pub user: Option<String>,
    pub environment: Vec<(String, String)>,
}

impl Start<'_> {
    /// Starts it; standard output and error go to `LOGS/NAME.out` and `.err`.
    ///
    /// `setpriv` sets the user, and the signal it gets when we die: nothing outlives a killed demonstration.
    pub fn spawn(self, logs: &Path) -> anyhow::Result<Program> {
        let output = logs.join(format!("{}.out", self.name));
        let errors = File::options().create(true).append(true).open(logs.join(format!("{}.err", self.name)))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = &self.user {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--init-groups");
        }
        command.arg("--").arg(&self.program).args(&self.args).envs(self.environment);
        command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(errors);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Program { name: self.name.to_owned(), child, output })
    }
}

impl Program {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The first line it prints, which is JSON when it is ready.
    pub async fn ready_line(&mut self) -> anyhow::Result<serde_json::Value> {
        let name = self.name.clone();
        self.wait_until(|text| text.split_once('\n').and_then(|(line, _)| serde_json::from_str(line).ok()))
            .await
            .with_context(|| format!("waiting for {name} to say that it is ready"))
    }

    async fn wait_until<T>(&mut self, found: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            let mut text = String::new();
            File::open(&self.output)?.take(64 * 1024).read_to_string(&mut text)?;
            if let Some(value) = found(&text) {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}); see {}", self.name, self.output.with_extension("err").display());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} is not ready after {} s", self.name, READY_LIMIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Takes its power away.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and makes it end.
    pub async fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        while self.is_running() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a tool to its end and returns what it printed.
pub fn run(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program).args(args).output().with_context(|| format!("starting {}", program.display()))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        bail!("{} {} failed ({}): {}", program.display(), args.join(" "), out.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A TCP port that was free just now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Two neighbouring free ports.
pub fn free_port_pair() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = free_port()?;
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no two neighbouring free ports")
}
