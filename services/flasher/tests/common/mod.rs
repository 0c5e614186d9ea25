//! The flasher on one end of a bus without a bus, with fakes in place of everything outside.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pitstop_bundle::description::{After, Expected};
use pitstop_bundle::{Description, IdentityBlock, Segment};
use pitstop_dbus::{FlasherProxy, OtaError};
use pitstop_flasher::ports::{Bundles, EcuLink, Keys, Links, Payload, Role, Safety, Software};
use pitstop_flasher::{Flasher, FlasherObject, Parts, config};
use pitstop_flashing::vehicle::{Bus, Ecu};
use pitstop_flashing::{Outcome, Profile, Vehicle, seed_key};
use pitstop_runtime::{Operations, testing};
use pitstop_store::Storage;
use pitstop_types::{EcuId, HardwareId, ReleaseCounter, SoftwareVersion, UpdateId};
use pitstop_uds::{Addressing, ClientError, Request, StepLimits};
use zbus::Connection;

pub fn overlay() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs-overlay"))
}

pub fn vehicle() -> Vehicle {
    config::vehicle(&overlay().join("etc/pitstop/vehicle.toml")).expect("shipped file")
}

/// The shipped profiles; some of the ECUs here want to be unlocked, which the demonstration's do not.
pub fn profiles(vehicle: &Vehicle) -> BTreeMap<String, Arc<Profile>> {
    let folder = overlay().join("usr/lib/pitstop/profiles");
    let mut profiles = config::profiles(&folder, vehicle, &[]).expect("shipped profiles");
    for (name, profile) in &mut profiles {
        if is_locked(name) {
            let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
            let security = "kind = \"seed-key\"\nplugin = \"sha256\"\nlevel = 0x11\n";
            *profile = Arc::new(Profile::read(&text.replacen("kind = \"none\"\n", security, 1)).expect("a profile"));
        }
    }
    profiles
}

/// Whether an ECU (or its profile) has 0x27 in these tests.
pub fn is_locked(name: &str) -> bool {
    name.starts_with("bcm") || name == "adas"
}

/// Bundles by ECU and role.
#[derive(Default)]
pub struct FakeBundles(pub Mutex<BTreeMap<(String, Role), Content>>);

#[derive(Clone)]
pub struct Content {
    pub hardware: String,
    pub version: String,
    pub description: Description,
    pub payload: Vec<u8>,
}

impl Content {
    /// Firmware at one address and the identity block at another.
    pub fn new(hardware: &str, number: &str, version: &str, firmware: (u32, Vec<u8>), identity: u32) -> Self {
        let block = IdentityBlock {
            software_number: number.into(),
            version: SoftwareVersion::new(version).unwrap(),
            counter: ReleaseCounter(1),
        };
        let block = block.write().unwrap();
        let mut segments = vec![
            Segment::of(firmware.0, 0, &firmware.1).unwrap(),
            Segment::of(identity, firmware.1.len() as u64, &block).unwrap(),
        ];
        segments.sort_by_key(|segment| segment.address);
        let after = After { software_number: number.into(), version: SoftwareVersion::new(version).unwrap() };
        let description = Description { format: 1, segments, expect: Expected::default(), after };
        Self {
            hardware: hardware.into(),
            version: version.into(),
            description,
            payload: [&firmware.1[..], &block].concat(),
        }
    }
}

struct MemoryPayload(Vec<u8>);

#[async_trait]
impl Payload for MemoryPayload {
    async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, OtaError> {
        let start = offset as usize;
        let bytes = self.0.get(start..start + length as usize);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| OtaError::HashMismatch("beyond the payload".into()))
    }
}

#[async_trait]
impl Bundles for FakeBundles {
    async fn open(&self, _update: &UpdateId, ecu: &EcuId, role: Role) -> Result<Software, OtaError> {
        let content = self.0.lock().unwrap().get(&(ecu.to_string(), role)).cloned();
        let content = content.ok_or_else(|| OtaError::NotAdmitted(format!("{ecu} {role:?}")))?;
        Ok(Software {
            hardware: HardwareId::new(content.hardware).unwrap(),
            version: SoftwareVersion::new(content.version).unwrap(),
            counter: ReleaseCounter(1),
            digest: "00".into(),
            description: Arc::new(content.description),
            payload: Box::new(MemoryPayload(content.payload)),
        })
    }
}

pub struct FakeSafety {
    pub consent: AtomicBool,
    pub safe: AtomicBool,
}

#[async_trait]
impl Safety for FakeSafety {
    async fn consented(&self, _update: &UpdateId) -> Result<(), OtaError> {
        if self.consent.load(Ordering::SeqCst) { Ok(()) } else { Err(OtaError::NoConsent("no answer".into())) }
    }

    async fn safe(&self) -> Result<(), OtaError> {
        if self.safe.load(Ordering::SeqCst) { Ok(()) } else { Err(OtaError::NotSafe("it drives".into())) }
    }
}

/// No ECU answers; counts what was asked.
#[derive(Default)]
pub struct NobodyThere(pub Arc<AtomicUsize>);

#[async_trait]
impl Links for NobodyThere {
    async fn open(&self, _bus: &Bus, _ecu: &Ecu, _profile: &Profile) -> Result<Box<dyn EcuLink>, OtaError> {
        Ok(Box::new(Silent(self.0.clone())))
    }
}

struct Silent(Arc<AtomicUsize>);

#[async_trait]
impl EcuLink for Silent {
    async fn ask(&mut self, request: &Request, _: Addressing, _: bool, _: StepLimits) -> Outcome {
        self.0.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
        Outcome::NoAnswer(ClientError::NoAnswer { service: request.service(), times: 1 })
    }

    async fn idle(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn reopen(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The secret of every ECU here.
pub struct TestKeys;

impl Keys for TestKeys {
    fn key(&self, _ecu: &EcuId, plugin: &str, level: u8, seed: &[u8]) -> Result<Vec<u8>, String> {
        seed_key::key(plugin, b"test secret", level, seed).map_err(|e| e.to_string())
    }
}

/// The service and its caller.
pub struct Stand {
    pub client: Connection,
    _server: Connection,
    pub bundles: Arc<FakeBundles>,
    pub safety: Arc<FakeSafety>,
}

impl Stand {
    /// The service with profiles whose ECUs partly want to be unlocked.
    pub async fn new(vehicle: Vehicle, links: Arc<dyn Links>, storage: Arc<dyn Storage>) -> Self {
        let profiles = profiles(&vehicle);
        Self::build(vehicle, profiles, links, storage).await
    }

    pub async fn build(
        vehicle: Vehicle,
        profiles: BTreeMap<String, Arc<Profile>>,
        links: Arc<dyn Links>,
        storage: Arc<dyn Storage>,
    ) -> Self {
        let (server, client) = testing::pair().await;
        let bundles = Arc::new(FakeBundles::default());
        let safety = Arc::new(FakeSafety { consent: true.into(), safe: true.into() });
        let flasher = Flasher::new(Parts {
            vehicle,
            profiles,
            links,
            bundles: bundles.clone(),
            safety: safety.clone(),
            keys: Arc::new(TestKeys),
            storage: storage.clone(),
        })
        .expect("a flasher");
        let operations = Operations::new(&server, "Flasher", storage).await.expect("operations");
        let object = FlasherObject::new(Arc::new(flasher), operations);
        server.object_server().at(pitstop_dbus::object_path("Flasher"), object).await.expect("served");
        Self { client, _server: server, bundles, safety }
    }

    pub async fn proxy(&self) -> FlasherProxy<'_> {
        FlasherProxy::builder(&self.client)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .expect("a proxy")
    }

    pub fn admit(&self, ecu: &str, role: Role, content: Content) {
        self.bundles.0.lock().unwrap().insert((ecu.into(), role), content);
    }

    /// Waits for an operation's end.
    pub async fn end(
        &self,
        path: Result<zbus::OwnedObjectPath, OtaError>,
    ) -> Result<pitstop_runtime::operation::Data, OtaError> {
        pitstop_runtime::operation::wait(&self.client, "Flasher", &path?.into(), |_| {}).await
    }
}
