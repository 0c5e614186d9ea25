use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pitstop_store::{FileStorage, Storage};
use sd_notify::NotifyState;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{Args, config, journal};

/// How long a call to another service may take. Long work is an operation object, so an answer that takes longer is no answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a service is given at its start.
#[derive(Clone)]
pub struct Context {
    service: &'static str,
    args: Args,
    shutdown: watch::Receiver<bool>,
    bus_closed: watch::Sender<bool>,
}

/// The bus daemon is gone, or has thrown the service out. What now: start the service again, which systemd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the bus was closed: the bus daemon ended, or ended it")]
pub struct BusClosed;

/// Runs a service to its end: logging, one thread with an event loop, SIGTERM and SIGINT, watchdog, exit status.
/// `service` is its name in kebab case (`self-update`). It fails with [`BusClosed`] when its connection to the bus is closed.
pub fn run<F, Fut>(service: &'static str, args: Args, start: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    journal::start(service);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("cannot start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let (stop, shutdown) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            let _ = stop.send(true);
            // Keep the sender: its end would look like a second shutdown.
            std::future::pending::<()>().await;
        });
        tokio::spawn(watchdog());
        let (bus_closed, closed) = watch::channel(false);
        until_bus_closes(start(Context { service, args, shutdown, bus_closed }), closed).await
    });
    // Work still on the blocking pool must not hold up the end; everything durable survives a kill anyway.
    runtime.shutdown_timeout(Duration::from_secs(2));
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{service} ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What `work` comes to, or [`BusClosed`]. A closed connection is not opened again by itself, and a service on it would live on for
/// ever, called by nobody and calling in vain, while its watchdog is fed by the event loop.
async fn until_bus_closes(
    work: impl Future<Output = anyhow::Result<()>>,
    mut closed: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tokio::select! {
        // An end that was asked for is one, also when the bus ends with the service.
        biased;
        result = work => result,
        // Work that has dropped its context has no connection to lose.
        Ok(_) = closed.wait_for(|&closed| closed) => Err(BusClosed.into()),
    }
}

/// Tells systemd that the event loop turns, at half the interval it asks for.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}

impl Context {
    pub fn service(&self) -> &'static str {
        self.service
    }

    pub fn args(&self) -> &Args {
        &self.args
    }

    pub fn root(&self) -> &Path {
        &self.args.root
    }

    /// A path of the configuration, absolute or not, below the root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.args.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Folder for the service's own state, `var/lib/pitstop/SERVICE`.
    pub fn state_dir(&self) -> PathBuf {
        self.path(format!("var/lib/pitstop/{}", self.service))
    }

    /// The service's small durable files, in its state folder.
    pub fn storage(&self) -> anyhow::Result<Arc<dyn Storage>> {
        Ok(Arc::new(FileStorage::open(self.state_dir())?))
    }

    /// The service's configuration: vendor defaults with the integrator's overrides laid over them.
    pub fn config<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        Ok(config::load(&self.args.root, self.service)?)
    }

    /// A connection to the system bus (or to `DBUS_SYSTEM_BUS_ADDRESS`) that owns no name yet. Serve the objects, then call [`Context::ready`].
    /// When it is closed, the service ends with [`BusClosed`].
    pub async fn bus(&self) -> anyhow::Result<zbus::Connection> {
        let bus = zbus::connection::Builder::system()
            .method_timeout(CALL_TIMEOUT)
            .build()
            .await
            .context("connecting to the system bus (is it running, and is DBUS_SYSTEM_BUS_ADDRESS right?)")?;
        self.end_with(&bus);
        Ok(bus)
    }

    fn end_with(&self, bus: &zbus::Connection) {
        let (bus, closed) = (bus.clone(), self.bus_closed.clone());
        tokio::spawn(async move {
            bus.closed().await;
            closed.send_replace(true);
        });
    }

    /// Takes the bus name `io.pitstop.Ota1.X` and tells systemd that the service is ready.
    pub async fn ready(&self, bus: &zbus::Connection, name: &str) -> anyhow::Result<()> {
        let name = pitstop_dbus::bus_name(name);
        bus.request_name(name.as_str()).await.with_context(|| format!("taking the bus name {name}"))?;
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        log::info!("ready as {name}");
        Ok(())
    }

    /// Sets the unit's status line.
    pub fn status(&self, text: &str) {
        let _ = sd_notify::notify(&[NotifyState::Status(text)]);
    }

    /// Returns when the service shall end.
    pub async fn until_shutdown(&self) {
        let mut shutdown = self.shutdown.clone();
        // The sender lives as long as the process.
        let _ = shutdown.wait_for(|&stop| stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// A context, what ends it, and what tells that its bus is closed.
    fn context() -> (Context, watch::Sender<bool>, watch::Receiver<bool>) {
        let (stop, shutdown) = watch::channel(false);
        let (bus_closed, closed) = watch::channel(false);
        let args = Args { root: PathBuf::from("/nowhere"), rest: Vec::new() };
        (Context { service: "test", args, shutdown, bus_closed }, stop, closed)
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("it ends")
    }

    #[tokio::test]
    async fn a_service_whose_bus_is_closed_ends_with_a_named_error() {
        let (context, _stop, closed) = context();
        let (server, daemon) = testing::pair().await;
        context.end_with(&server);
        let work = async {
            daemon.close().await?;
            context.until_shutdown().await;
            Ok(())
        };
        let error = soon(until_bus_closes(work, closed)).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&BusClosed));
        assert!(server.is_closed());
    }

    #[tokio::test]
    async fn a_service_that_is_asked_to_end_does_so_without_an_error() {
        let (context, stop, closed) = context();
        let (server, daemon) = testing::pair().await;
        context.end_with(&server);
        let work = async {
            stop.send_replace(true);
            context.until_shutdown().await;
            Ok(())
        };
        assert!(soon(until_bus_closes(work, closed.clone())).await.is_ok());
        // Nor does a bus that closed before change what the work came to.
        daemon.close().await.unwrap();
        soon(server.closed()).await;
        soon(closed.clone().wait_for(|&closed| closed)).await.unwrap();
        assert!(until_bus_closes(async { Ok(()) }, closed).await.is_ok());
    }

    #[tokio::test]
    async fn work_without_a_bus_goes_on_to_its_end() {
        let (context, _stop, closed) = context();
        let work = async {
            drop(context);
            tokio::task::yield_now().await;
            Ok(())
        };
        assert!(soon(until_bus_closes(work, closed)).await.is_ok());
    }
}
