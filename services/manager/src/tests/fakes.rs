//! Fakes of all ports on the simulated vehicle. A call is a place where power can fail: before it, within it, after it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use pitstop_dbus::{Answer, ConditionResult, EcuDescription, EcuVersions, OtaError, SlotStatus};
use pitstop_lifecycle::Role;
use pitstop_lifecycle::sim::{SimEcu, Stop, World, facts};
use pitstop_store::cut::{CutStorage, Disk};
use pitstop_store::{Storage, StoreError};
use pitstop_types::{Decision, Digest, EcuId, PromptFacts, SoftwareRef, UnixSeconds, UpdateEnd, UpdateId, UserChoice};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ports::{Backend, Clock, Content, Driver, EcuFlasher, Ended, Order, Ports, Receipt, Slots, Vehicle, Verb};
use crate::tether::Tether;

/// What the driver, the backend and the other services do beside the vehicle itself. Survives power cuts.
#[derive(Default)]
pub struct Scene {
    pub answered_at: Option<UnixSeconds>,
    /// The driver does not answer.
    pub silent_driver: bool,
    /// Conditions that do not hold.
    pub blocked: Vec<String>,
    pub verify: Option<OtaError>,
    /// The Director wants nothing.
    pub nothing_wanted: bool,
    /// How many of a hundred calls find their service away.
    pub away_percent: u64,
    pub calls: u64,
    pub reports: Vec<serde_json::Value>,
    /// Orders in the sequence in which they were carried out.
    pub orders: Vec<String>,
    pub asked: u32,
    /// Seconds that an activation takes.
    pub slow_secs: u64,
    pub slow_verify_secs: u64,
    /// Stage orders end with "not now", and go on saying so until that result is acknowledged.
    pub not_now: bool,
    /// The clock is not set.
    pub no_clock: bool,
    /// So many orders, bundles and commits are answered with these errors first.
    pub troubles: std::collections::VecDeque<(Verb, OtaError)>,
    pub admit_troubles: std::collections::VecDeque<OtaError>,
    /// Seconds that a judgement of conditions takes.
    pub slow_evaluate_secs: u64,
    /// The driver's clock stands still: every answer has this time.
    pub answer_time: Option<UnixSeconds>,
    pub acknowledged: u32,
}

/// Everything fakes share.
#[derive(Clone)]
pub struct Stage {
    pub world: Arc<Mutex<World>>,
    pub scene: Arc<Mutex<Scene>>,
    pub disk: Disk,
    pub dead: Arc<Notify>,
    pub boot_id: String,
    pub began: Instant,
    pub began_at: UnixSeconds,
}

impl Stage {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn scene(&self) -> MutexGuard<'_, Scene> {
        self.scene.lock().unwrap()
    }

    pub fn ports(&self) -> Ports {
        let all = Arc::new(self.clone());
        Ports {
            flasher: all.clone(),
            slots: all.clone(),
            content: all.clone(),
            driver: all.clone(),
            vehicle: all.clone(),
            backend: all.clone(),
            clock: all,
        }
    }

    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Powered { inner: self.disk.storage(), stage: self.clone() })
    }

    /// One call that changes something, with power points around it.
    async fn call<T>(&self, act: impl FnOnce(&mut World) -> Result<T, Stop>) -> Result<T, OtaError> {
        self.away()?;
        let result = {
            let mut world = self.world();
            world.power.point().and_then(|()| act(&mut world)).and_then(|made| world.power.point().map(|()| made))
        };
        match result {
            Ok(made) => Ok(made),
            Err(_) => self.die().await,
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.notify_one();
        std::future::pending().await
    }

    fn away(&self) -> Result<(), OtaError> {
        let mut scene = self.scene();
        scene.calls += 1;
        // Multiplicative hashing (Knuth): scattered, and the same in every run.
        let scattered = scene.calls.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        if scattered % 100 < scene.away_percent {
            return Err(OtaError::NotReady("killed a moment ago".into()));
        }
        Ok(())
    }
}

/// Storage whose writes are power points too.
struct Powered {
    inner: CutStorage,
    stage: Stage,
}

impl Powered {
    fn write(&self, act: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let cut = |_| StoreError::PowerCut;
        self.stage.world().power.point().map_err(cut)?;
        act()?;
        self.stage.world().power.point().map_err(cut)
    }
}

impl Storage for Powered {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read(name)
    }
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(|| {
            if name == "record" && String::from_utf8_lossy(bytes).contains("\"phase\":\"committing\"") {
                self.stage.world().commit_begun = true;
            }
            self.inner.replace(name, bytes)
        })
    }
    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        // An append can be torn: half of it, a power point, all of it.
        let before = self.inner.read(name)?.unwrap_or_default();
        self.write(|| {
            self.inner.append(name, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
            self.stage.world().power.point().map_err(|_| StoreError::PowerCut)?;
            self.inner.replace(name, &[before.as_slice(), bytes].concat())
        })
    }
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.write(|| self.inner.remove(name))
    }
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix)
    }
}

impl Clock for Stage {
    fn now(&self) -> Option<UnixSeconds> {
        if self.scene().no_clock {
            return None;
        }
        Some(self.began_at + i64::try_from(self.began.elapsed().as_secs()).unwrap())
    }
}

fn named(failure: &pitstop_lifecycle::Failure) -> OtaError {
    OtaError::from_name(&failure.error, failure.text.clone())
}

impl Stage {
    async fn order(&self, order: &Order, tether: &Tether) -> Result<(), OtaError> {
        let text = format!("{:?} {} {}", order.verb, order.ecu, order.attempt).to_lowercase();
        self.scene().orders.push(text);
        tether.progress("working", 1, 2);
        let trouble = {
            let mut scene = self.scene();
            let due = scene.troubles.front().is_some_and(|(verb, _)| *verb == order.verb);
            due.then(|| scene.troubles.pop_front()).flatten()
        };
        if let Some((_, error)) = trouble {
            return Err(error);
        }
        let slow = self.scene().slow_secs;
        tokio::time::sleep(Duration::from_secs(slow)).await;
        let ecu = order.ecu.clone();
        let failure = self
            .call(|world| {
                let failure = match order.verb {
                    Verb::Stage => world.staging_fails(&ecu),
                    Verb::Activate => world.activation_fails(&ecu),
                    Verb::RollBack => world.roll_back_fails(&ecu),
                    Verb::Commit => None,
                };
                match order.verb {
                    Verb::Stage if failure.is_none() => world.stage(&ecu)?,
                    Verb::Activate => world.activate(&ecu, failure.is_some())?,
                    Verb::RollBack if failure.is_none() => world.roll_back(&ecu)?,
                    Verb::Commit => world.commit(&ecu),
                    _ => {}
                }
                Ok(failure)
            })
            .await?;
        failure.map_or(Ok(()), |failure| Err(named(&failure)))
    }
}

#[async_trait]
impl EcuFlasher for Stage {
    async fn list(&self) -> Result<Vec<EcuDescription>, OtaError> {
        self.away()?;
        let world = self.world();
        let ecu = |facts: &pitstop_lifecycle::plan::EcuFacts| EcuDescription {
            ecu: facts.ecu.to_string(),
            bus: "can0".into(),
            address: String::new(),
            banks: if matches!(world.ecus.get(&facts.ecu), Some(SimEcu::Dual { .. })) { "dual" } else { "single" }
                .into(),
            hardware: facts.hardware.to_string(),
            via: facts.via.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        Ok(facts().ecus.iter().map(ecu).collect())
    }

    async fn versions(&self, ecus: &[EcuId]) -> Result<Vec<EcuVersions>, OtaError> {
        self.away()?;
        let found = self.world().versions();
        let wire = |report: pitstop_types::EcuReport| EcuVersions {
            ecu: report.ecu.to_string(),
            hardware: report.hardware.to_string(),
            version: report.version.map(|version| version.to_string()).unwrap_or_default(),
            ..EcuVersions::default()
        };
        Ok(found.into_iter().filter(|report| ecus.contains(&report.ecu)).map(wire).collect())
    }

    async fn carry_out(&self, order: &Order, tether: &Tether) -> Ended {
        if self.scene().not_now && order.verb == Verb::Stage && self.scene().acknowledged == 0 {
            let path = "/io/pitstop/Ota1/Flasher/operations/stage".try_into().unwrap();
            let receipt = Some(Receipt { service: "Flasher", path });
            return Ended { result: Err(OtaError::NotReady("validator starts".into())), receipt };
        }
        Ended::without_receipt(self.order(order, tether).await)
    }
}

#[async_trait]
impl Slots for Stage {
    async fn slots(&self) -> Result<Vec<SlotStatus>, OtaError> {
        self.away()?;
        let world = self.world();
        let slot = |name: &str| {
            let id = name.parse().unwrap();
            SlotStatus {
                name: name.into(),
                booted: world.slots.booted == id,
                state: "good".into(),
                version: world.slots.version_of(&id).cloned().unwrap_or_default(),
                hardware: "tcu-a1".into(),
                primary: world.slots.order.first() == Some(&id),
            }
        };
        Ok(vec![slot("A"), slot("B")])
    }
    async fn boot_id(&self) -> String {
        self.boot_id.clone()
    }
    async fn fall_back_reason(&self) -> String {
        String::new()
    }
    async fn stage(&self, order: &Order, tether: &Tether) -> Ended {
        Ended::without_receipt(self.order(order, tether).await)
    }
    async fn activate(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.scene().orders.push("activate tcu".into());
        self.call(|world| world.activate(&EcuId::tcu(), false)).await
    }
    async fn reboot(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.die().await
    }
    async fn mark_good(&self, _update: &UpdateId) -> Result<(), OtaError> {
        let unfit = self.world().faults.unfit;
        if unfit {
            return Err(OtaError::Unhealthy("a unit failed".into()));
        }
        self.call(|world| {
            world.slots.mark_good();
            Ok(())
        })
        .await
    }
    async fn mark_other_bad(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            let (booted, other) = (world.slots.booted.clone(), world.slots.other());
            world.slots.choose_old(&booted, &other);
            Ok(())
        })
        .await
    }
    async fn commit(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            world.commit(&EcuId::tcu());
            Ok(())
        })
        .await
    }
    async fn roll_back(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.scene().orders.push("rollback tcu".into());
        self.call(|world| world.roll_back(&EcuId::tcu())).await
    }
    async fn release_lease(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|_| Ok(())).await
    }
}

#[async_trait]
impl Content for Stage {
    async fn collect_manifest(&self, update: Option<&UpdateId>) -> Result<Vec<u8>, OtaError> {
        self.away()?;
        Ok(format!("{{\"signed\":\"{}\"}}", update.map_or("", UpdateId::as_str)).into_bytes())
    }
    async fn verify(&self, _tether: &Tether) -> Result<Option<UpdateId>, OtaError> {
        self.away()?;
        let slow = self.scene().slow_verify_secs;
        tokio::time::sleep(Duration::from_secs(slow)).await;
        if let Some(error) = self.scene().verify.clone() {
            return Err(error);
        }
        Ok((!self.scene().nothing_wanted).then(|| self.world().decision.update.clone()))
    }
    async fn decision(&self, _update: &UpdateId) -> Result<Decision, OtaError> {
        self.away()?;
        Ok(self.world().decision.clone())
    }
    async fn admit(
        &self,
        _update: &UpdateId,
        ecu: &EcuId,
        role: Role,
        _bundle: &SoftwareRef,
        tether: &Tether,
    ) -> Result<(), OtaError> {
        tether.progress("fetching", 0, 1);
        if let Some(error) = self.scene().admit_troubles.pop_front() {
            return Err(error);
        }
        if self.world().faults.refuse == Some((ecu.clone(), role)) {
            return Err(OtaError::HashMismatch("the bundle is another one".into()));
        }
        self.call(|world| {
            world.admitted.insert((ecu.clone(), role));
            Ok(())
        })
        .await
    }
    async fn raise_floors(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            world.floors = true;
            Ok(())
        })
        .await
    }
    async fn release(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            world.admitted.clear();
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Driver for Stage {
    async fn ask(&self, _update: &UpdateId, _facts: &PromptFacts) -> Result<(), OtaError> {
        self.scene().asked += 1;
        self.call(|_| Ok(())).await
    }
    async fn ask_again(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.scene().answered_at = None;
        self.call(|world| {
            world.answers.pop_front();
            Ok(())
        })
        .await
    }
    async fn answer(&self, _update: &UpdateId) -> Result<Answer, OtaError> {
        self.away()?;
        let now = self.now().unwrap_or(0);
        if self.scene().silent_driver {
            return Ok(Answer::default());
        }
        let answered_at = *self.scene().answered_at.get_or_insert(now);
        let answered_at = self.scene().answer_time.unwrap_or(answered_at);
        let mut world = self.world();
        let choice = world.answers.front().copied().unwrap_or(UserChoice::Now);
        world.agreed = matches!(choice, UserChoice::Now | UserChoice::At { .. });
        let (choice, at) = match choice {
            UserChoice::Now => ("now", 0),
            UserChoice::At { unix_secs } => ("at", unix_secs),
            UserChoice::Later => ("later", 0),
            UserChoice::No => ("no", 0),
        };
        let text_digest = Digest::of(b"the text").to_string();
        Ok(Answer { choice: choice.into(), at, origin: "hmi".into(), answered_at, text_digest })
    }
    async fn answered(&self) {
        std::future::pending().await
    }
    async fn withdraw(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|_| Ok(())).await
    }
    async fn notify(&self, update: &UpdateId, _end: UpdateEnd, _text: &str) -> Result<(), OtaError> {
        self.call(|world| {
            world.notices.insert(update.to_string());
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Vehicle for Stage {
    async fn evaluate(&self, conditions: &[String]) -> Result<Vec<ConditionResult>, OtaError> {
        self.away()?;
        let slow = self.scene().slow_evaluate_secs;
        tokio::time::sleep(Duration::from_secs(slow)).await;
        let blocked = self.scene().blocked.clone();
        let judge = |condition: &String| ConditionResult {
            condition: condition.clone(),
            holds: !blocked.contains(condition),
            reason: if blocked.contains(condition) { "Vehicle.Speed is 50 km/h".into() } else { String::new() },
        };
        Ok(conditions.iter().map(judge).collect())
    }
    async fn request_inhibit(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            world.inhibit = true;
            Ok(())
        })
        .await
    }
    async fn release_inhibit(&self, _update: &UpdateId) -> Result<(), OtaError> {
        self.call(|world| {
            world.inhibit = false;
            Ok(())
        })
        .await
    }
    async fn inhibit_owners(&self) -> Result<Vec<UpdateId>, OtaError> {
        self.away()?;
        let world = self.world();
        Ok(world.inhibit.then(|| world.decision.update.clone()).into_iter().collect())
    }
    async fn unsafe_because(&self) -> Result<Option<String>, OtaError> {
        self.away()?;
        Ok((!self.world().inhibit).then(|| "the drive inhibit is not acknowledged".into()))
    }
}

#[async_trait]
impl Backend for Stage {
    async fn send_manifest(&self, _manifest: &[u8]) -> Result<(), OtaError> {
        self.away()
    }
    async fn report(&self, report: &str) -> Result<(), OtaError> {
        self.away()?;
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        let words: BTreeMap<&str, UpdateEnd> = UpdateEnd::ALL.into_iter().map(|end| (end.as_str(), end)).collect();
        let end = report.get("result").and_then(|word| words.get(word.as_str()?)).copied();
        self.scene().reports.push(report);
        match end {
            None => Ok(()),
            Some(end) => {
                self.call(|world| {
                    world.reports.push(end);
                    Ok(())
                })
                .await
            }
        }
    }
    async fn report_progress(&self, _update: &UpdateId, _progress: &str) -> Result<(), OtaError> {
        Ok(())
    }
    async fn acknowledge(&self, _receipt: Receipt) {
        self.scene().acknowledged += 1;
    }
}
