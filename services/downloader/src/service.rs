//! One task owns the index of the cache: who wants what, how far it is, who is fetching.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use pitstop_dbus::{CacheUsage, OtaError};
use pitstop_types::{Digest, UpdateId};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot, watch};

use crate::config::Settings;
use crate::fetch::{Fetch, Step};
use crate::ports::LinkSource;
use crate::store::{Cache, CacheError, Claim};

const COMMANDS: usize = 32;
/// Bundles in the cache: two for each of 64 ECUs.
const MAX_BUNDLES: usize = 128;

/// Bundles that nobody wants any more, each with the lock of whoever still fetches it.
type Gone = Vec<(Digest, Arc<Mutex<()>>)>;
type Reply<T> = oneshot::Sender<Result<T, OtaError>>;

/// What the bus object asks of the service.
pub enum Command {
    /// Claims room for a bundle before its operation starts.
    Reserve {
        update: UpdateId,
        digest: Digest,
        length: u64,
        reply: Reply<()>,
    },
    /// The operation begins: everything it needs, once whoever fetches the same bundle is done.
    Begin {
        digest: Digest,
        reply: Reply<Turn>,
    },
    Open {
        digest: Digest,
        reply: Reply<File>,
    },
    Release {
        update: UpdateId,
        reply: Reply<()>,
    },
    Usage {
        reply: Reply<CacheUsage>,
    },
}

/// A fetch, and the lock under which it runs.
pub struct Turn {
    pub fetch: Fetch,
    pub lock: Arc<Mutex<()>>,
}

impl Turn {
    /// Waits until nobody else works on the bundle.
    pub async fn wait(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lock).lock_owned().await
    }
}

/// The bus object's side of the service.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Sends the command that `make` builds around the reply, and waits for the answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, OtaError> {
        let ending = || OtaError::NotReady("the service is ending".into());
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

struct Entry {
    claim: Claim,
    step: Step,
    lock: Arc<Mutex<()>>,
    cancel: watch::Sender<bool>,
}

/// The service's state and its task.
pub struct Service {
    settings: Arc<Settings>,
    cache: Cache,
    links: Arc<dyn LinkSource>,
    entries: BTreeMap<Digest, Entry>,
    fetched_before: u64,
    commands: mpsc::Receiver<Command>,
    steps_out: mpsc::UnboundedSender<(Digest, Step)>,
    steps: mpsc::UnboundedReceiver<(Digest, Step)>,
}

impl Service {
    /// The service over what the cache holds already.
    pub fn new(
        settings: Arc<Settings>,
        cache: Cache,
        links: Arc<dyn LinkSource>,
    ) -> Result<(Self, Handle), CacheError> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let mut entries = BTreeMap::new();
        for (digest, claim) in cache.claims()? {
            let progress = cache.progress(&digest);
            let have = if cache.is_whole(&digest) { claim.length } else { progress.durable };
            entries.insert(digest, Entry::new(claim, Step { have, fetched: progress.fetched }));
        }
        let fetched_before = cache.fetched_before();
        let (steps_out, steps) = mpsc::unbounded_channel();
        let service = Self { settings, cache, links, entries, fetched_before, commands, steps_out, steps };
        Ok((service, Handle { commands: sender }))
    }

    /// Runs until nobody holds the handle.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some((digest, step)) = self.steps.recv() => {
                    if let Some(entry) = self.entries.get_mut(&digest) {
                        entry.step = step;
                    }
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        // An answer that nobody waits for any more is no error.
        match command {
            Command::Reserve { update, digest, length, reply } => {
                drop(reply.send(self.reserve(update, digest, length)))
            }
            Command::Begin { digest, reply } => drop(reply.send(self.begin(digest))),
            Command::Open { digest, reply } => drop(reply.send(self.open(&digest))),
            Command::Usage { reply } => drop(reply.send(Ok(self.usage()))),
            Command::Release { update, reply } => self.release(&update, reply),
        }
    }

    fn reserve(&mut self, update: UpdateId, digest: Digest, length: u64) -> Result<(), OtaError> {
        if let Some(entry) = self.entries.get_mut(&digest) {
            if entry.claim.length != length {
                let text = format!(
                    "bundle {digest} was asked for with {} bytes before, now with {length}",
                    entry.claim.length
                );
                return Err(OtaError::InvalidArgument(text));
            }
            if entry.claim.updates.insert(update) {
                self.cache.claim(&digest, &entry.claim)?;
            }
            return Ok(());
        }
        let reserved: u64 = self.entries.values().map(|e| e.claim.length).fold(0, u64::saturating_add);
        if reserved.saturating_add(length) > self.settings.budget_bytes || self.entries.len() >= MAX_BUNDLES {
            let text = format!(
                "{length} bytes beside {reserved} reserved in {} bundles, the cache takes {}",
                self.entries.len(),
                self.settings.budget_bytes
            );
            return Err(OtaError::TooLarge(text));
        }
        let claim = Claim { length, updates: [update].into() };
        self.cache.claim(&digest, &claim)?;
        self.entries.insert(digest, Entry::new(claim, Step { have: 0, fetched: 0 }));
        Ok(())
    }

    fn begin(&mut self, digest: Digest) -> Result<Turn, OtaError> {
        let entry =
            self.entries.get(&digest).ok_or_else(|| OtaError::Cancelled(format!("bundle {digest} was released")))?;
        let fetch = Fetch {
            digest,
            length: entry.claim.length,
            cache: self.cache.clone(),
            settings: Arc::clone(&self.settings),
            links: Arc::clone(&self.links),
            cancel: entry.cancel.subscribe(),
            steps: self.steps_out.clone(),
        };
        Ok(Turn { fetch, lock: Arc::clone(&entry.lock) })
    }

    fn open(&self, digest: &Digest) -> Result<File, OtaError> {
        let known = self.entries.contains_key(digest);
        let file = if known { self.cache.open_whole(digest)? } else { None };
        file.ok_or_else(|| OtaError::NotFound(format!("bundle {digest} is not in the cache, or not whole")))
    }

    fn usage(&self) -> CacheUsage {
        let sum = |part: fn(&Entry) -> u64| self.entries.values().map(part).fold(0, u64::saturating_add);
        CacheUsage {
            cached: sum(|e| e.step.have),
            budget: self.settings.budget_bytes,
            fetched: self.fetched_before.saturating_add(sum(|e| e.step.fetched)),
        }
    }

    /// Forgets what only `update` wanted; answers when it is gone from the disk.
    fn release(&mut self, update: &UpdateId, reply: Reply<()>) {
        match self.forget(update) {
            Err(error) => drop(reply.send(Err(error.into()))),
            Ok(gone) => {
                let cache = self.cache.clone();
                tokio::spawn(async move { drop(reply.send(remove_all(cache, gone).await)) });
            }
        }
    }

    fn forget(&mut self, update: &UpdateId) -> Result<Gone, CacheError> {
        let mut gone = Vec::new();
        for (digest, entry) in &mut self.entries {
            if !entry.claim.updates.remove(update) {
                continue;
            }
            if entry.claim.updates.is_empty() {
                gone.push((*digest, Arc::clone(&entry.lock)));
            } else {
                self.cache.claim(digest, &entry.claim)?;
            }
        }
        for (digest, _) in &gone {
            if let Some(entry) = self.entries.remove(digest) {
                entry.cancel.send_replace(true);
                self.fetched_before = self.fetched_before.saturating_add(entry.step.fetched);
            }
        }
        if !gone.is_empty() {
            self.cache.store_fetched_before(self.fetched_before)?;
        }
        Ok(gone)
    }
}

impl Entry {
    fn new(claim: Claim, step: Step) -> Self {
        Self { claim, step, lock: Arc::default(), cancel: watch::Sender::new(false) }
    }
}

/// Waits for each fetch to notice that it is cancelled, then takes its files away.
async fn remove_all(cache: Cache, gone: Gone) -> Result<(), OtaError> {
    for (digest, lock) in gone {
        let _turn = lock.lock_owned().await;
        cache.remove(&digest)?;
    }
    Ok(())
}
