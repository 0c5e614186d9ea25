//! A backend in this process and devices that talk to it as vehicles do.

#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pitstop_backend::Backend;
use pitstop_backend::clock::Clock;
use pitstop_backend::http::{Listeners, listen};
use pitstop_backend::init::{InitOptions, init};
use pitstop_backend::mqtt::Hint;
use pitstop_backend::settings::{DataDir, Settings};
use pitstop_bundle_io::build::{Builder, EcuSoftware, Signer, TcuSoftware};
use pitstop_bundle_io::keys::{Identity, Usage, identity};
use pitstop_types::{EcuId, HardwareId, ReleaseCounter, SoftwareVersion, Vin};
use pitstop_uptane::{EcuVersionReport, ManifestBuilder, MemorySigner, Scheme, Signer as _, Time};
use reqwest::{Method, StatusCode};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

pub const VIN: &str = "WP0ZZZ99ZTS392124";

pub struct World {
    pub backend: Arc<Backend>,
    pub folder: tempfile::TempDir,
    listeners: Listeners,
    client: reqwest::Client,
    token: String,
    now: Arc<AtomicI64>,
    bundles: Signer,
}

/// TLS takes the real time; the backend's own clock stands where the test puts it, beginning now.
fn real_now() -> i64 {
    Clock::System.now()
}

pub fn tls(ca_pem: &str, client: Option<(&str, &str)>) -> reqwest::Client {
    reqwest::Client::builder().tls_backend_preconfigured(tls_config(ca_pem, client)).no_proxy().build().unwrap()
}

fn tls_config(ca_pem: &str, client: Option<(&str, &str)>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::make(1, |settings| {
            settings.mqtt.enabled = false;
            change(settings);
        })
        .await
        .0
    }

    /// With a broker to be started at `port`; the hints are for `mqtt::run`.
    pub async fn with_broker(port: u16) -> (Self, UnboundedReceiver<Hint>) {
        Self::make(port, |_| {}).await
    }

    async fn make(mqtt_port: u16, change: impl FnOnce(&mut Settings)) -> (Self, UnboundedReceiver<Hint>) {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(folder.path().join("backend"));
        let now = Arc::new(AtomicI64::new(real_now()));
        let clock = Clock::Manual(Arc::clone(&now));
        let ca = identity("Bundle CA", Usage::Authority, None, real_now() - 86_400, 30).unwrap();
        let leaf: Identity = identity("Bundles", Usage::BundleSigner, Some(&ca), real_now() - 86_400, 30).unwrap();
        let keyring = folder.path().join("keyring.pem");
        std::fs::write(&keyring, ca.certificate_pem().unwrap()).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let options = InitOptions {
            hosts: vec!["127.0.0.1".into()],
            public: any,
            device: any,
            admin: any,
            mqtt_host: "127.0.0.1".into(),
            mqtt_port,
            mqtt_bind: "127.0.0.1".into(),
            broker_user: None,
            keyring: Some(keyring),
        };
        init(&dir, &options, &clock).unwrap();
        let mut settings = Settings::load(&dir).unwrap();
        change(&mut settings);
        let (backend, hints) = Backend::open(dir.clone(), settings, clock).await.unwrap();
        let listeners = listen(&backend).await.unwrap();
        let token = std::fs::read_to_string(dir.admin_token()).unwrap().trim().to_owned();
        let ca_pem = std::fs::read_to_string(dir.tls().join("server-ca.pem")).unwrap();
        let bundles = Signer { certificate: leaf.certificate, key: leaf.key, intermediates: Vec::new() };
        let client = tls(&ca_pem, None);
        (Self { client, backend, folder, listeners, token, now, bundles }, hints)
    }

    pub fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }
    pub fn pass(&self, secs: i64) {
        self.now.fetch_add(secs, Ordering::Relaxed);
    }
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.listeners.admin)
    }
    pub fn public_url(&self) -> String {
        format!("https://{}", self.listeners.public)
    }
    pub fn token(&self) -> &str {
        &self.token
    }
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}{path}", self.admin_url())).bearer_auth(&self.token);
        let request = if body.is_null() { request } else { request.json(&body) };
        answer(request).await
    }
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.call(Method::POST, path, body).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    /// Makes a bundle of `ecu` (hardware `{ecu}-a1`) with the version as its content.
    pub fn bundle(&self, ecu: &str, version: &str, counter: u64) -> PathBuf {
        let path = self.folder.path().join(format!("{ecu}-{version}.raucb"));
        let software = EcuSoftware {
            hardware: HardwareId::new(format!("{ecu}-a1")).unwrap(),
            version: SoftwareVersion::new(version).unwrap(),
            counter: ReleaseCounter(counter),
            software_number: format!("{ecu}-1"),
            replaces: Vec::new(),
            identity_address: 0x20_0000,
            firmware: vec![(0x1000, format!("{ecu} {version}").repeat(5000).into_bytes())],
        };
        Builder::ecu(&software).unwrap().write(&path, &self.bundles).unwrap();
        path
    }

    /// A bundle for the TCU; its root file system is whatever.
    pub fn tcu_bundle(&self, version: &str, counter: u64) -> PathBuf {
        let rootfs = self.folder.path().join("rootfs.ext4");
        std::fs::write(&rootfs, version.repeat(5000)).unwrap();
        let software = TcuSoftware {
            hardware: HardwareId::new("tcu-a1").unwrap(),
            version: SoftwareVersion::new(version).unwrap(),
            counter: ReleaseCounter(counter),
            rootfs,
        };
        let path = self.folder.path().join(format!("tcu-{version}.raucb"));
        Builder::tcu(&software).unwrap().write(&path, &self.bundles).unwrap();
        path
    }

    pub async fn try_upload(&self, path: &Path) -> (StatusCode, Value) {
        let url = format!("{}/api/v1/bundles?name=test.raucb", self.admin_url());
        let bytes = std::fs::read(path).unwrap();
        answer(self.client.post(url).bearer_auth(&self.token).body(bytes)).await
    }
    pub async fn upload(&self, ecu: &str, version: &str, counter: u64) -> Value {
        let (status, body) = self.try_upload(&self.bundle(ecu, version, counter)).await;
        assert_eq!(status, 201, "{body}");
        body
    }

    /// Publishes versions 1 of bcm and adas as initial and 2 as an update; returns the update's id.
    pub async fn release(&self) -> String {
        let mut ids = Vec::new();
        for (ecu, version, counter) in [("bcm", "1.0", 1), ("adas", "1.0", 1), ("bcm", "2.0", 2), ("adas", "2.0", 2)] {
            ids.push(self.upload(ecu, version, counter).await["id"].clone());
        }
        let initial = json!({ "name": "factory", "kind": "initial", "bundles": ids[..2] });
        let initial = self.post("/api/v1/releases", initial).await;
        self.post(&format!("/api/v1/releases/{}/publish", initial["id"].as_str().unwrap()), json!({})).await;
        let update = json!({ "name": "winter", "bundles": ids[2..], "facts": facts() });
        let id = self.post("/api/v1/releases", update).await["id"].as_str().unwrap().to_owned();
        self.post(&format!("/api/v1/releases/{id}/publish"), json!({})).await;
        id
    }

    /// Publishes an update of one ECU; returns its id.
    pub async fn release_of(&self, ecu: &str, version: &str, counter: u64) -> String {
        let bundle = self.upload(ecu, version, counter).await["id"].clone();
        let body = json!({ "name": version, "bundles": [bundle], "facts": facts() });
        let id = self.post("/api/v1/releases", body).await["id"].as_str().unwrap().to_owned();
        self.post(&format!("/api/v1/releases/{id}/publish"), Value::Null).await;
        id
    }

    pub async fn campaign(&self, body: Value) -> String {
        let id = self.post("/api/v1/campaigns", body).await["id"].as_str().unwrap().to_owned();
        self.post(&format!("/api/v1/campaigns/{id}/start"), Value::Null).await;
        id
    }

    pub async fn device(&self, vin: &str) -> Device {
        let claim = self.post("/api/v1/vehicles", json!({ "vin": vin })).await;
        let token = claim["claim_token"].as_str().unwrap();
        let (device, request) = Device::asking(vin, token);
        let (status, answer) = self.provision(&request).await;
        assert_eq!(status, 200, "{answer}");
        device.provisioned(&answer)
    }

    pub async fn provision(&self, request: &Value) -> (StatusCode, Value) {
        answer(self.client.post(format!("{}/v1/provision", self.public_url())).json(request)).await
    }

    /// The state and reason of the vehicle's newest assignment.
    pub async fn state(&self, vin: &str) -> (String, String) {
        let vehicle = self.get(&format!("/api/v1/vehicles/{vin}")).await;
        let last = vehicle["assignments"].as_array().unwrap().last().cloned().unwrap_or_default();
        let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }
}

pub fn facts() -> Value {
    json!({ "purpose": "Safety", "changes": "Brakes", "expected_secs": 600, "unavailable": "Driving", "instructions": "Park" })
}

pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A TCU.
pub struct Device {
    pub vin: String,
    pub id: String,
    pub identity: MemorySigner,
    tls_key: rcgen::KeyPair,
    certificate: String,
    pub client: reqwest::Client,
    pub url: String,
    pub counter: u64,
    /// ECU and version.
    pub runs: Vec<(String, Option<String>)>,
    seq: u64,
}

impl Device {
    /// A new device with its provisioning request.
    pub fn asking(vin: &str, token: &str) -> (Self, Value) {
        let identity = MemorySigner::generate(Scheme::EcdsaP256).unwrap();
        let tls_key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&tls_key).unwrap().pem().unwrap();
        let request = json!({ "token": token, "vin": vin, "csr_pem": csr,
            "identity": { "keyid": identity.public().id(), "public_pem": identity.public().public_text() } });
        let device = Self {
            vin: vin.to_owned(),
            id: String::new(),
            identity,
            tls_key,
            certificate: String::new(),
            client: reqwest::Client::builder().tls_backend_preconfigured(no_tls()).build().unwrap(),
            url: String::new(),
            counter: 0,
            runs: ["tcu", "bcm", "adas"].map(|ecu| (ecu.to_owned(), Some("1.0".to_owned()))).into(),
            seq: 0,
        };
        (device, request)
    }

    /// The request once more, made anew with the same keys.
    pub fn asking_again(&self, request: &Value) -> Value {
        let csr = rcgen::CertificateParams::default().serialize_request(&self.tls_key).unwrap();
        let mut again = request.clone();
        again["csr_pem"] = csr.pem().unwrap().into();
        again
    }

    pub fn provisioned(mut self, answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        let key = self.tls_key.serialize_pem();
        self.certificate = text("certificate_pem");
        self.client = tls(&text("ca_pem"), Some((&self.certificate, &key)));
        self.url = text("device_url");
        self.id = text("device_id");
        self
    }

    pub fn tls_config(&self, ca_pem: &str) -> rustls::ClientConfig {
        tls_config(ca_pem, Some((&self.certificate, &self.tls_key.serialize_pem())))
    }

    pub fn set(&mut self, version: &str) {
        for (ecu, runs) in &mut self.runs {
            if ecu != "tcu" {
                *runs = Some(version.to_owned());
            }
        }
    }

    /// The next manifest, signed by `signer`.
    pub fn manifest_by(&mut self, signer: &MemorySigner, now: i64) -> Vec<u8> {
        self.counter += 1;
        let time = Some(Time::from_unix(now).unwrap());
        let vin = Vin::new(self.vin.as_str()).unwrap();
        let mut builder = ManifestBuilder::new(vin, EcuId::tcu(), self.counter, time);
        for (ecu, version) in &self.runs {
            builder.report(EcuVersionReport {
                ecu_serial: EcuId::new(ecu.as_str()).unwrap(),
                hardware_id: HardwareId::new(format!("{ecu}-a1")).unwrap(),
                part_serial: format!("S-{ecu}"),
                software_number: format!("{ecu}-1"),
                version: version.as_ref().map(|version| SoftwareVersion::new(version.as_str()).unwrap()),
                not_responding: false,
                installed_image: None,
                attacks_detected: String::new(),
                time: None,
                report_counter: 0,
            });
        }
        builder.sign(signer).unwrap()
    }

    pub fn manifest(&mut self, now: i64) -> Vec<u8> {
        let signer = std::mem::replace(&mut self.identity, MemorySigner::generate(Scheme::EcdsaP256).unwrap());
        let bytes = self.manifest_by(&signer, now);
        self.identity = signer;
        bytes
    }

    pub async fn put(&self, manifest: Vec<u8>) -> (StatusCode, Value) {
        answer(self.client.put(format!("{}/v1/device/manifest", self.url)).body(manifest)).await
    }

    /// Sends what it runs; returns the update it is to do.
    pub async fn report(&mut self, world: &World) -> Option<String> {
        let manifest = self.manifest(world.now());
        let (status, body) = self.put(manifest).await;
        assert_eq!(status, 200, "{body}");
        body["update"].as_str().map(str::to_owned)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.client.get(format!("{}{path}", self.url))).await
    }
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.client.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// Sends one outbox item.
    pub async fn tell(&mut self, update: &str, mut item: Value) -> Value {
        self.seq += 1;
        item["seq"] = self.seq.into();
        item["update"] = update.into();
        let (status, body) = self.post("/v1/device/status", &json!([item])).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["ack"], self.seq);
        body
    }
}

fn no_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
