//! Lives of the TCU, one event loop each, with virtual time, on one vehicle and one disk.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pitstop_dbus::{OtaError, StepStatus, UpdateStatus};
use pitstop_lifecycle::sim::World;
use pitstop_store::cut::Disk;
use pitstop_types::{UpdateEnd, UpdateId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::fakes::{Scene, Stage};
use crate::history::{Entry, History};
use crate::service::{Command, News, Service};
use crate::{Input, ask};

/// A vehicle with its manager, over any number of lives.
pub struct Vehicle {
    pub world: Arc<Mutex<World>>,
    pub scene: Arc<Mutex<Scene>>,
    pub disk: Disk,
    lives: u32,
}

/// A running manager's caller.
#[derive(Clone)]
pub struct Caller {
    pub stage: Stage,
    pub commands: mpsc::Sender<Command>,
    news: Arc<Mutex<Vec<News>>>,
    changed: Arc<Notify>,
}

impl Caller {
    pub async fn check(&self) -> Result<Option<UpdateId>, OtaError> {
        ask(&self.commands, Command::Check).await.unwrap()
    }

    pub async fn cancel(&self) -> Result<(), OtaError> {
        ask(&self.commands, |reply| Command::Cancel { origin: "a test".into(), reply }).await.unwrap()
    }

    pub async fn status(&self) -> (UpdateStatus, Vec<StepStatus>) {
        ask(&self.commands, Command::Status).await.unwrap()
    }

    /// Waits until the update is in `phase`; looks at virtual time, so it costs none.
    pub async fn until(&self, phase: &str) {
        for _ in 0..1_000_000 {
            if self.status().await.0.phase == phase {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never in {phase}, but in {}", self.status().await.0.phase);
    }

    pub fn phases(&self) -> Vec<String> {
        let news = self.news.lock().unwrap();
        news.iter()
            .filter_map(|news| match news {
                News::Transition { phase, .. } => Some(phase.clone()),
                News::Step(_) => None,
            })
            .collect()
    }

    pub fn steps_seen(&self) -> Vec<StepStatus> {
        let news = self.news.lock().unwrap();
        news.iter().filter_map(|news| if let News::Step(step) = news { Some(step.clone()) } else { None }).collect()
    }

    async fn ended(&self) {
        loop {
            if self.phases().iter().any(|phase| phase == "ended") {
                return;
            }
            self.changed.notified().await;
        }
    }
}

impl Vehicle {
    pub fn new(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), scene: Arc::default(), disk: Disk::new(), lives: 0 }
    }

    pub fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn scene(&self) -> std::sync::MutexGuard<'_, Scene> {
        self.scene.lock().unwrap()
    }

    /// One life: `story` plays the caller. `None`: the power failed or the TCU restarted before the story was over.
    pub fn live<F, Fut, T>(&mut self, story: F) -> Option<T>
    where
        F: FnOnce(Caller) -> Fut,
        Fut: Future<Output = T>,
    {
        self.lives += 1;
        let boot = self.world().boot();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let told = runtime.block_on(async {
            let stage = Stage {
                world: self.world.clone(),
                scene: self.scene.clone(),
                disk: self.disk.clone(),
                dead: Arc::default(),
                boot_id: boot.boot_id,
                began: Instant::now(),
                began_at: boot.at,
            };
            let told = one_life(stage.clone(), story).await;
            let now = pitstop_clock(&stage);
            self.world().now = now;
            told
        });
        runtime.shutdown_background();
        told
    }

    /// Lives on until the update has ended; the end. `Err`: it does not end, or the vehicle is not as the end says.
    pub fn run(&mut self) -> Result<UpdateEnd, String> {
        for _ in 0..60 {
            let ended = self.live(|caller| async move {
                match caller.status().await.0.phase.as_str() {
                    // Cut after the last write: there is nothing left to hear of.
                    "ended" => return,
                    "idle" => drop(caller.check().await),
                    _ => {}
                }
                caller.ended().await;
            });
            if ended.is_some() {
                return self.judge();
            }
        }
        Err("no end after 60 lives".into())
    }

    pub fn entries(&self) -> Vec<Entry> {
        let log = pitstop_store::ChainedLog::new(Arc::new(self.disk.storage()), "history");
        log.entries::<Entry>().unwrap().into_iter().map(|entry| entry.data).collect()
    }

    pub fn history(&self) -> History {
        History::new(Arc::new(self.disk.storage()))
    }

    /// The end in the history, held against the vehicle.
    pub fn judge(&self) -> Result<UpdateEnd, String> {
        let entries = self.entries();
        let end = entries.last().map(|entry| entry.end);
        let mut world = self.world();
        world.history = entries.iter().map(|entry| entry.update.clone()).collect();
        world.check(end)?;
        if !self.history().verify().map_err(|error| error.to_string())?.whole {
            return Err("the history's chain is broken".into());
        }
        end.ok_or_else(|| "no end".into())
    }
}

fn pitstop_clock(stage: &Stage) -> i64 {
    crate::ports::Clock::now(stage).unwrap()
}

async fn one_life<F, Fut, T>(stage: Stage, story: F) -> Option<T>
where
    F: FnOnce(Caller) -> Fut,
    Fut: Future<Output = T>,
{
    let (news, mut heard) = mpsc::unbounded_channel();
    let settings = Input::default().validate().unwrap();
    let service = match Service::load(stage.ports(), settings, stage.storage(), news) {
        Ok(service) => service,
        Err(error) => panic!("{error}"),
    };
    let (commands, received) = mpsc::channel(8);
    let caller = Caller { stage: stage.clone(), commands, news: Arc::default(), changed: Arc::default() };
    let listener = caller.clone();
    let listen = async move {
        while let Some(news) = heard.recv().await {
            listener.news.lock().unwrap().push(news);
            listener.changed.notify_waiters();
            listener.changed.notify_one();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        told = story(caller) => Some(told),
        _ = service.run(received) => None,
        () = stage.dead.notified() => None,
        () = listen => None,
    }
}
