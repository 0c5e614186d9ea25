//! The backend and its broker as the operator sees them: processes and the REST interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process::{Program, Start, free_port, run};

/// Where the backend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Hosting {
    /// As a program of this machine.
    #[default]
    Process,
    /// Out of the image that `cargo xtask container` made, by buildah.
    Container,
}

/// How to start the server: a program and what stands before its own arguments.
#[derive(Debug, Clone)]
struct Server {
    program: PathBuf,
    before: Vec<String>,
    /// The working container, to be removed at the end.
    container: Option<String>,
}

/// Name of the image.
const IMAGE: &str = "localhost/pitstop-backend:latest";
/// How buildah is spoken to; the same words as in `cargo xtask container`.
const BUILDAH: [&str; 2] = ["--storage-driver", "vfs"];

impl Server {
    fn new(hosting: Hosting, program: &Path, dir: &Path) -> anyhow::Result<Self> {
        if hosting == Hosting::Process {
            return Ok(Self { program: program.to_owned(), before: Vec::new(), container: None });
        }
        let buildah = Path::new("buildah");
        let words = [&BUILDAH[..], &["from", IMAGE]].concat();
        let made =
            run(buildah, &words).context("making a container; was the image made by `cargo xtask container`?")?;
        let container = made.trim().to_owned();
        // The same path inside as outside, because the configuration names absolute paths.
        let volume = format!("{0}:{0}", path(dir)?);
        let run = [
            "run",
            "--isolation",
            "chroot",
            "--user",
            "0",
            "-v",
            &volume,
            &container,
            "--",
            "/usr/bin/pitstop-backend",
        ];
        let before = BUILDAH.iter().chain(&run).map(|word| (*word).to_owned()).collect();
        Ok(Self { program: buildah.to_owned(), before, container: Some(container) })
    }

    async fn serve(&self, dir: &Path, logs: &Path) -> anyhow::Result<(Program, Value)> {
        let mut args = self.before.clone();
        args.extend(["serve", "--dir", path(dir)?].map(str::to_owned));
        let start = Start { name: "backend", program: self.program.clone(), args, user: None, environment: Vec::new() };
        let mut server = start.spawn(logs)?;
        let ready = server.ready_line().await?;
        Ok((server, ready))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(container) = &self.container {
            // One that stays behind takes some space, no more.
            let _ = run(Path::new("buildah"), &[&BUILDAH[..], &["rm", container]].concat());
        }
    }
}

/// A running backend with its broker.
#[derive(Debug)]
pub struct Backend {
    pub dir: PathBuf,
    logs: PathBuf,
    running: Program,
    server: Server,
    _broker: Program,
    rest: Rest,
    /// What it said when it was ready: its addresses.
    pub ready: Value,
}

impl Backend {
    /// Makes a new backend in `dir` and starts it and mosquitto.
    pub async fn start(
        dir: &Path,
        program: &Path,
        hosting: Hosting,
        keyring: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let (mqtt, public, device, admin) = (free_port()?, free_port()?, free_port()?, free_port()?);
        let at = |port: u16| format!("127.0.0.1:{port}");
        let words = [
            "init",
            "--dir",
            path(dir)?,
            "--host",
            "127.0.0.1",
            "--keyring",
            path(keyring)?,
            "--mqtt-host",
            "127.0.0.1",
            "--mqtt-port",
            &mqtt.to_string(),
            "--public",
            &at(public),
            "--device",
            &at(device),
            "--admin",
            &at(admin),
        ];
        run(program, &words)?;
        Self::open(dir, program, hosting, logs).await
    }

    /// Starts the backend that was made in `dir` before, and mosquitto.
    pub async fn open(dir: &Path, program: &Path, hosting: Hosting, logs: &Path) -> anyhow::Result<Self> {
        let broker = Start {
            name: "mosquitto",
            program: PathBuf::from(if Path::new("/usr/sbin/mosquitto").exists() {
                "/usr/sbin/mosquitto"
            } else {
                "mosquitto"
            }),
            args: vec!["-c".into(), path(&dir.join("mosquitto/mosquitto.conf"))?.to_owned()],
            user: None,
            environment: Vec::new(),
        }
        .spawn(logs)?;
        let server = Server::new(hosting, program, dir)?;
        let (running, ready) = server.serve(dir, logs).await?;
        let rest = Rest::new(dir, &ready)?;
        Ok(Self { dir: dir.to_owned(), logs: logs.to_owned(), running, server, _broker: broker, rest, ready })
    }

    /// Takes the servers away at once, as when a machine dies.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    pub async fn stop(&mut self) {
        self.running.stop().await;
    }

    /// Starts it again on the same addresses.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        (self.running, self.ready) = self.server.serve(&self.dir, &self.logs).await?;
        Ok(())
    }

    pub fn rest(&self) -> &Rest {
        &self.rest
    }
}

/// The operator's interface.
#[derive(Debug, Clone)]
pub struct Rest {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Rest {
    fn new(dir: &Path, ready: &Value) -> anyhow::Result<Self> {
        let base = ready["admin"].as_str().context("the backend did not tell its admin address")?.trim_end_matches('/');
        let base = if base.starts_with("http") { base.to_owned() } else { format!("http://{base}") };
        let token = fs::read_to_string(dir.join("admin.token")).context("reading the admin token")?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        Ok(Self { client, base, token: token.trim().to_owned() })
    }

    /// Address of the interface, without trailing slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Address of the operator's page with what a browser needs to be let in.
    pub fn browser_url(&self) -> String {
        self.base.replacen("http://", &format!("http://operator:{}@", self.token), 1)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.client.get(format!("{}{path}", self.base))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.answer(self.client.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// Uploads a bundle; answers what the backend read out of it.
    pub async fn upload(&self, file: &Path) -> anyhow::Result<Value> {
        let name = file.file_name().and_then(|n| n.to_str()).context("a bundle without a name")?;
        let request = self.client.post(format!("{}/api/v1/bundles?name={name}", self.base)).body(fs::read(file)?);
        self.answer(request).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.token).send().await.context("the backend does not answer")?;
        let (status, url) = (response.status(), response.url().path().to_owned());
        let text = response.text().await?;
        let value =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        ensure!(status.is_success(), "{url}: {status}: {value}");
        Ok(value)
    }

    /// Uploads and publishes both releases: what vehicles have from the factory, and the update. Answers the update's id.
    pub async fn publish(&self, before: &[PathBuf], after: &[PathBuf]) -> anyhow::Result<String> {
        self.publish_initial(before).await?;
        self.publish_update("Winter 2026", after).await
    }

    /// What vehicles have from the factory.
    pub async fn publish_initial(&self, bundles: &[PathBuf]) -> anyhow::Result<()> {
        let bundles = self.upload_all(bundles).await?;
        let release = json!({ "name": "from the factory", "kind": "initial", "bundles": bundles });
        self.publish_release(&release).await.map(drop)
    }

    /// An update with all that the driver is told; answers the release's id.
    pub async fn publish_update(&self, name: &str, bundles: &[PathBuf]) -> anyhow::Result<String> {
        let bundles = self.upload_all(bundles).await?;
        let release = json!({
            "name": name,
            "kind": "update",
            "bundles": bundles,
            "facts": {
                "purpose": "Safety: shorter braking distance on wet roads. Recommended for every vehicle.",
                "changes": "Brake assistant 3.1, tyre pressure warning earlier, body control and gateway corrections, new telematics system.",
                "expected_secs": 600,
                "unavailable": "The vehicle cannot be driven; lights and locks do not react for some seconds.",
                "instructions": "Park the vehicle, set the parking brake, leave the ignition off. Do not disconnect the battery."
            }
        });
        self.publish_release(&release).await
    }

    /// The ids of bundles; one that was uploaded before keeps its own.
    async fn upload_all(&self, files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
        let mut ids = Vec::new();
        for file in files {
            ids.push(self.upload(file).await?["id"].clone());
        }
        Ok(ids)
    }

    async fn publish_release(&self, release: &Value) -> anyhow::Result<String> {
        let made = self.post("/api/v1/releases", release).await?;
        let id = made["id"].as_str().context("the release has no id")?.to_owned();
        self.post(&format!("/api/v1/releases/{id}/publish"), &json!({})).await?;
        Ok(id)
    }

    /// Registers a vehicle; answers its one-time provisioning token.
    pub async fn register(&self, vin: &str) -> anyhow::Result<String> {
        let made = self.post("/api/v1/vehicles", &json!({ "vin": vin })).await?;
        made["claim_token"].as_str().map(str::to_owned).context("no claim token was given")
    }

    /// Makes and starts a campaign for these vehicles.
    pub async fn campaign(&self, release: &str, vins: &[&str]) -> anyhow::Result<String> {
        let order = json!({ "name": "Winter 2026, first vehicles", "release": release, "vins": vins, "conditions": ["parked"] });
        let made = self.post("/api/v1/campaigns", &order).await?;
        let id = made["id"].as_str().context("the campaign has no id")?.to_owned();
        self.post(&format!("/api/v1/campaigns/{id}/start"), &json!({})).await?;
        Ok(id)
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is not UTF-8")
}
