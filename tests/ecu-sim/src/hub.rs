//! The CAN hub: buses by name, paced by bit time, joined over a Unix socket (`pitstop_can::hub`) or by the socketcand protocol.

mod bits;
mod bus;
mod socketcand;
mod timer;
mod unix;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};

use crate::vehicle::Bus;
use bus::BusHandle;

/// The buses and who serves them.
#[derive(Debug, Clone)]
pub struct Hub {
    buses: Arc<BTreeMap<String, BusHandle>>,
}

impl Hub {
    /// Starts the buses. `speed`: times real.
    pub fn start(buses: &[Bus], speed: f64) -> io::Result<Self> {
        let start = |bus: &Bus| Ok((bus.name.to_string(), bus::start(bus.clone(), speed)?));
        let buses: io::Result<BTreeMap<_, _>> = buses.iter().map(start).collect();
        Ok(Self { buses: Arc::new(buses?) })
    }

    /// Serves participants on a Unix socket; an old socket file is replaced.
    pub fn listen_unix(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        tokio::spawn(unix::serve(listener, self.clone()));
        Ok(())
    }

    /// Serves participants by the socketcand protocol and says where.
    pub async fn listen_socketcand(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        tokio::spawn(socketcand::serve(listener, self.clone()));
        Ok(local)
    }

    fn bus(&self, name: &str) -> Option<&BusHandle> {
        self.buses.get(name)
    }
}
