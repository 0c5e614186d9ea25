//! Three listeners: public (server certificate), device (client certificates), admin (plain HTTP for loopback).

mod admin;
mod admin_campaigns;
mod auth;
mod device;
mod document;
mod download;
mod extract;
mod page;
mod prometheus;
mod public;
mod range;
mod tls;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;

use crate::backend::{Backend, Urls};
use crate::error::Error;

pub use admin::openapi;

/// How long running requests may take to end after a stop.
const GRACE: Duration = Duration::from_secs(3);
/// A request's headers, or the next request on an idle connection, must come within this: kept-alive connections of vehicles are
/// cheap to open again, and one that sends a byte a minute holds nothing for long.
const HEADERS: Duration = Duration::from_secs(60);

/// The listeners' addresses, and the means to stop them.
pub struct Listeners {
    pub public: SocketAddr,
    pub device: SocketAddr,
    pub admin: SocketAddr,
    handles: Vec<Handle<SocketAddr>>,
    tasks: Vec<tokio::task::JoinHandle<std::io::Result<()>>>,
}

/// Binds all three, then serves in tasks.
pub async fn listen(backend: &Arc<Backend>) -> Result<Listeners, Error> {
    let addresses = &backend.settings.listen;
    let (public, public_at) = bind(addresses.public)?;
    let (device, device_at) = bind(addresses.device)?;
    let (admin, admin_at) = bind(addresses.admin)?;
    let advertise = &backend.settings.advertise;
    let url = |given: &Option<String>, at: SocketAddr| {
        given.clone().unwrap_or_else(|| format!("https://{}", authority(&advertise.host, at)))
    };
    let urls = Urls { public: url(&advertise.public_url, public_at), device: url(&advertise.device_url, device_at) };
    // Set once: a second call would have bound other ports.
    let _ = backend.urls.set(urls);
    let handles = vec![Handle::new(), Handle::new(), Handle::new()];
    let [public_handle, device_handle, admin_handle] = [0, 1, 2].map(|n| handles.get(n).cloned().unwrap_or_default());
    let public_tls = tls::RustlsAcceptor::new(tls::server_config(&backend.dir, None)?);
    let device_tls = tls::DeviceAcceptor::new(tls::server_config(&backend.dir, Some("device-ca.pem"))?);
    let serve = "starting a listener";
    let mut public_server = axum_server::from_tcp(public).map_err(Error::internal(serve))?;
    let mut device_server = axum_server::from_tcp(device).map_err(Error::internal(serve))?;
    let mut admin_server = axum_server::from_tcp(admin).map_err(Error::internal(serve))?;
    for server in [&mut public_server, &mut device_server, &mut admin_server] {
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    }
    let (public_app, device_app, admin_app) = routers(backend);
    let tasks = vec![
        tokio::spawn(public_server.acceptor(public_tls).handle(public_handle).serve(public_app.into_make_service())),
        tokio::spawn(device_server.acceptor(device_tls).handle(device_handle).serve(device_app.into_make_service())),
        tokio::spawn(admin_server.handle(admin_handle).serve(admin_app.into_make_service())),
    ];
    Ok(Listeners { public: public_at, device: device_at, admin: admin_at, handles, tasks })
}

fn routers(backend: &Arc<Backend>) -> (Router, Router, Router) {
    (public::router(Arc::clone(backend)), device::router(Arc::clone(backend)), admin::router(Arc::clone(backend)))
}

/// Runs what has many steps in a task of its own: a client that goes away does not cut it short.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(Error::internal("seeing a request through"))?
}

fn bind(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), Error> {
    let failed = "binding a listener";
    let listener = std::net::TcpListener::bind(address).map_err(Error::internal(failed))?;
    listener.set_nonblocking(true).map_err(Error::internal(failed))?;
    let address = listener.local_addr().map_err(Error::internal(failed))?;
    Ok((listener, address))
}

fn authority(host: &str, at: SocketAddr) -> String {
    match host {
        "" => at.to_string(),
        host if host.contains(':') => format!("[{host}]:{}", at.port()),
        host => format!("{host}:{}", at.port()),
    }
}

impl Listeners {
    /// Stops taking connections, gives running requests a moment, then ends.
    pub async fn stop(self) {
        self.handles.iter().for_each(|handle| handle.graceful_shutdown(Some(GRACE)));
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_goes_away_does_not_cut_the_work_short() {
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let (done, seen) = tokio::sync::oneshot::channel();
        let work = async move {
            let _ = wait.await;
            done.send(()).map_err(|()| Error::NotFound("test"))
        };
        {
            let handler = std::pin::pin!(to_its_end(work));
            assert!(futures_util::poll!(handler).is_pending());
        }
        go_on.send(()).unwrap();
        seen.await.unwrap();
    }
}
