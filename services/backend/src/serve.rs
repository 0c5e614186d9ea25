//! `pitstop-backend serve`: listeners, controller and broker client until a signal.

use std::sync::Arc;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::Backend;
use crate::clock::Clock;
use crate::error::{Error, causes};
use crate::http::listen;
use crate::mqtt;
use crate::settings::{DataDir, Settings};

/// Printed as one JSON line when everything listens.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub ready: bool,
    pub public: String,
    pub device: String,
    pub admin: String,
    pub admin_token_file: String,
    /// `host:port`, or null when the broker is switched off.
    pub mqtt: Option<String>,
}

/// Serves until SIGTERM or SIGINT. `ready` is told once, when requests are taken.
pub async fn serve(dir: DataDir, settings: Settings, ready: impl FnOnce(&Ready)) -> Result<(), Error> {
    let failed = "waiting for signals";
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal(failed))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal(failed))?;
    let (backend, hints) = Backend::open(dir, settings, Clock::System).await?;
    let listeners = listen(&backend).await?;
    let controller = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { backend.run_controller().await }
    });
    let broker = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move {
            if backend.settings.mqtt.enabled
                && let Err(error) = mqtt::run(backend, hints).await
            {
                log::error!("broker: {error}: {}", causes(&error));
            }
        }
    });
    ready(&describe(&backend, &listeners));
    tokio::select! {
        _ = terminate.recv() => log::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => log::info!("SIGINT: stopping"),
    }
    controller.abort();
    broker.abort();
    listeners.stop().await;
    Ok(())
}

fn describe(backend: &Backend, listeners: &crate::http::Listeners) -> Ready {
    let mqtt = &backend.settings.mqtt;
    let urls = backend.urls.get();
    Ready {
        ready: true,
        public: urls.map(|urls| urls.public.clone()).unwrap_or_default(),
        device: urls.map(|urls| urls.device.clone()).unwrap_or_default(),
        admin: format!("http://{}", listeners.admin),
        admin_token_file: backend.dir.admin_token().display().to_string(),
        mqtt: mqtt.enabled.then(|| format!("{}:{}", mqtt.host, mqtt.port)),
    }
}
