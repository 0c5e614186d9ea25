//! One task owns the DoIP entity, the UDS server and every connection. Bytes come in and go out through small tasks with bounded
//! queues: a tester that does not read, or sends faster than it is answered, holds up nobody but itself.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pitstop_dbus::{SlotRelease, UdsServerStatus};
use pitstop_doip::{
    ConnectionId, Entity, EntityEvent, EntitySettings, EntityTransmit, LogicalAddress, VehicleAnnouncement,
};
use pitstop_uds::server::{ClientId, Server, ServerEvent, ServerSettings};
use pitstop_uds::{Addressing, Did, Request, SessionType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Settings;
use crate::content::TcuContent;
use crate::workshop::Done;

/// Longest message taken from a tester beside TransferData: a certificate with two intermediates.
const MAX_MESSAGE: u32 = 20 * 1024;
/// Addresses of a diagnostic message, before the TransferData message itself.
const ADDRESSES: u32 = 4;
/// Longest datagram taken.
const MAX_DATAGRAM: usize = 4096;
/// Bytes read from a connection at once.
const READ_BYTES: usize = 16 * 1024;
/// Reads of all connections that may wait for the engine; then the testers' TCP windows fill.
const QUEUE: usize = 16;
/// Pieces that may wait for a connection's writer, and bytes in all that a tester may leave unread before it is disconnected. Answers are
/// longer than their requests, some by a hundred times: 256 KiB are 64 of the longest, and some MiB for all testers.
const UNREAD_ANSWERS: usize = 32;
const UNREAD_BYTES: usize = 256 * 1024;
/// A tester that does not take one answer for this long is disconnected.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// What is left of P2 (50 ms) for asking what runs, when that is not known yet.
const SOFTWARE_PATIENCE: Duration = Duration::from_millis(35);
/// After a wait for that which brought nothing, nobody else is kept waiting for so long: every wait holds up all testers.
const SOFTWARE_PAUSE: Duration = Duration::from_secs(1);
/// A_DoIP_Announce_Interval and A_DoIP_Announce_Num of ISO 13400-2.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(500);
const ANNOUNCEMENTS: u32 = 3;
/// Tries to find one port that is free for TCP and UDP.
const PORT_TRIES: u32 = 20;

/// TCP and UDP on one port.
pub struct Sockets {
    pub tcp: TcpListener,
    pub udp: UdpSocket,
    pub local: SocketAddr,
}

impl Sockets {
    /// Binds both; with port 0 a port that is free for both.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let tcp = TcpListener::bind(listen).await?;
            let local = tcp.local_addr()?;
            match UdpSocket::bind(local).await {
                Ok(udp) => return Ok(Self { tcp, udp, local }),
                Err(error) if listen.port() != 0 || tries >= PORT_TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }
}

/// What comes from a connection's reading task.
enum Incoming {
    Bytes(ConnectionId, Vec<u8>),
    Closed(ConnectionId),
}

struct Connection {
    /// Dropped to close: the writing task sends what is queued and ends.
    writer: mpsc::Sender<Vec<u8>>,
    /// Bytes that the writing task has not written yet.
    unread: Arc<AtomicUsize>,
    reader: JoinHandle<()>,
}

/// Bytes that each connection gets at the end of this round.
type Owed = BTreeMap<ConnectionId, Vec<u8>>;

/// The running server.
pub struct Engine {
    sockets: Sockets,
    entity: Entity,
    server: Server<TcuContent>,
    address: LogicalAddress,
    software: watch::Receiver<Option<SlotRelease>>,
    /// When it is waited for again.
    software_from: Instant,
    status: watch::Sender<UdsServerStatus>,
    /// What the workshop's orders come to; nothing ever where there is no workshop.
    done: mpsc::Receiver<Done>,
    connections: BTreeMap<ConnectionId, Connection>,
    limit: usize,
    /// Each writing task holds one, also while it sends the rest on a connection that is closed.
    writing: Arc<()>,
    next_id: u64,
    start: Instant,
    incoming: (mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>),
    announcements_left: u32,
    next_announcement: Instant,
}

impl Engine {
    pub fn new(settings: &Settings, sockets: Sockets, content: TcuContent, done: mpsc::Receiver<Done>) -> Self {
        let mut vin = [0; 17];
        vin.iter_mut().zip(content.vin.as_str().bytes()).for_each(|(to, from)| *to = from);
        let vehicle = VehicleAnnouncement {
            vin,
            address: settings.address,
            eid: settings.eid,
            gid: settings.gid,
            further_action: 0,
            sync_status: None,
        };
        // One functional group: all ECUs, by the standard (ISO 13400-2, table 13, WWH-OBD).
        let mut entity = EntitySettings::new(vehicle, [LogicalAddress(0xE000)]);
        entity.gateway = false;
        entity.max_testers = settings.max_testers;
        let block = u32::try_from(settings.workshop.block.0).unwrap_or(u32::MAX);
        entity.max_length = MAX_MESSAGE.max(block.saturating_add(ADDRESSES));
        let announce = settings.announce && !sockets.local.ip().is_loopback();
        Self {
            limit: usize::from(settings.max_testers) + 1,
            software: content.software.clone(),
            software_from: Instant::now(),
            writing: Arc::new(()),
            entity: Entity::new(entity),
            server: Server::new(content, ServerSettings::default()),
            address: settings.address,
            status: watch::Sender::new(UdsServerStatus { session: "default".into(), ..UdsServerStatus::default() }),
            done,
            connections: BTreeMap::new(),
            next_id: 0,
            start: Instant::now(),
            incoming: mpsc::channel(QUEUE),
            announcements_left: if announce { ANNOUNCEMENTS } else { 0 },
            next_announcement: Instant::now(),
            sockets,
        }
    }

    pub fn status(&self) -> watch::Receiver<UdsServerStatus> {
        self.status.subscribe()
    }

    /// Serves until it is dropped.
    pub async fn run(mut self) {
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            let deadline = self.deadline();
            tokio::select! {
                accepted = self.sockets.tcp.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    // Out of descriptors, or a tester that was gone again: wait rather than spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                received = self.sockets.udp.recv_from(&mut datagram) => if let Ok((length, from)) = received {
                    self.datagram(datagram.get(..length).unwrap_or_default(), from).await;
                },
                Some(incoming) = self.incoming.1.recv() => self.incoming(incoming),
                Some(done) = self.done.recv() => self.done(done),
                () = tokio::time::sleep_until(deadline) => self.timeout().await,
            }
            self.drain().await;
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn deadline(&self) -> Instant {
        let machines = [self.entity.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min();
        let machines = machines.map(|at| self.start + at);
        let announcement = (self.announcements_left > 0).then_some(self.next_announcement);
        // An hour stands for "never".
        machines.into_iter().chain(announcement).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn accept(&mut self, stream: TcpStream) {
        // Whoever leaves answers unread behind, again and again, must not fill the memory with them either.
        if self.connections.len() >= self.limit || Arc::strong_count(&self.writing) > 2 * self.limit {
            return;
        }
        // Acknowledge and answer are small; Nagle would hold the second back for 40 ms.
        let _ = stream.set_nodelay(true);
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let (read, write) = stream.into_split();
        let (writer, answers) = mpsc::channel(UNREAD_ANSWERS);
        let reader = tokio::spawn(read_all(id, read, self.incoming.0.clone()));
        let unread = Arc::new(AtomicUsize::new(0));
        tokio::spawn(write_all(write, answers, Arc::clone(&unread), Arc::clone(&self.writing)));
        self.connections.insert(id, Connection { writer, unread, reader });
        self.entity.handle_connected(self.now(), id);
    }

    async fn datagram(&mut self, bytes: &[u8], from: SocketAddr) {
        if let Some(answer) = self.entity.handle_datagram(bytes) {
            // Lost answers are the tester's to ask for again.
            let _ = self.sockets.udp.send_to(&answer, from).await;
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        let now = self.now();
        match incoming {
            Incoming::Bytes(id, bytes) => self.entity.handle_input(now, id, &bytes),
            Incoming::Closed(id) => {
                self.entity.handle_closed(now, id);
                self.forget(id);
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Opened(result) => self.server.complete_download(now, result),
            Done::Other(result) => self.server.complete(now, result),
        }
    }

    async fn timeout(&mut self) {
        let now = self.now();
        self.entity.handle_timeout(now);
        self.server.handle_timeout(now);
        if self.announcements_left > 0 && self.next_announcement <= Instant::now() {
            self.announcements_left -= 1;
            self.next_announcement = Instant::now() + ANNOUNCE_INTERVAL;
            let to = (std::net::Ipv4Addr::BROADCAST, pitstop_doip::PORT);
            let _ = self.sockets.udp.set_broadcast(true);
            let _ = self.sockets.udp.send_to(&self.entity.announcement(), to).await;
        }
    }

    /// Lets both machines talk until neither has anything to say, then sends what each connection is owed in one piece. One request is
    /// answered before the next is handed on: only so what is owed is known before more is added.
    async fn drain(&mut self) {
        let mut owed = Owed::new();
        loop {
            while let Some(transmit) = self.entity.poll_transmit() {
                self.owe(transmit, &mut owed);
            }
            if let Some(transmit) = self.server.poll_transmit() {
                // A tester that left while it was answered is no error.
                let _ = self.entity.send(self.now(), ConnectionId(transmit.client.0), self.address, transmit.pdu);
            } else if let Some(event) = self.server.poll_event() {
                match event {
                    ServerEvent::Session { session, .. } => {
                        log::info!("diagnostic session is {}", session_word(session));
                    }
                    // The restart has been asked for; until it comes the server is as after one.
                    ServerEvent::Reset { client, answered, .. } => {
                        log::info!("a tester restarts the TCU");
                        // ISO 14229-5: after the positive answer the server closes the connection; one that is suppressed closes nothing.
                        if answered {
                            let connection = ConnectionId(client.0);
                            self.entity.disconnect(self.now(), connection);
                            self.close(connection, &mut owed);
                        }
                    }
                }
            } else if let Some(event) = self.entity.poll_event() {
                self.entity_event(event, &mut owed).await;
            } else if owed.is_empty() {
                break;
            } else {
                // Whoever is disconnected here may make room for another, who is to hear of it.
                for (id, bytes) in std::mem::take(&mut owed) {
                    self.send(id, bytes);
                }
            }
        }
        self.tell_status();
    }

    /// Adds to what a connection is owed, and disconnects a tester that would be owed too much.
    fn owe(&mut self, EntityTransmit { connection: id, bytes }: EntityTransmit, owed: &mut Owed) {
        let Some(connection) = self.connections.get(&id) else { return };
        let piece = owed.entry(id).or_default();
        piece.extend(bytes);
        if connection.unread.load(Ordering::Relaxed).saturating_add(piece.len()) > UNREAD_BYTES {
            owed.remove(&id);
            self.disconnect_deaf(id);
        }
    }

    async fn entity_event(&mut self, event: EntityEvent, owed: &mut Owed) {
        match event {
            // Requests of a tester that is gone by now: it could be given a right that nobody would take from it again.
            EntityEvent::Received { connection, .. } if !self.connections.contains_key(&connection) => {}
            EntityEvent::Received { connection, target, data, .. } => {
                self.await_software(&data).await;
                let addressing = if target.is_functional() { Addressing::Functional } else { Addressing::Physical };
                self.status.send_modify(|status| status.requests += 1);
                self.server.handle_input(self.now(), ClientId(connection.0), addressing, &data);
            }
            EntityEvent::Activated { tester, .. } => log::info!("tester {tester} has activated routing"),
            EntityEvent::Close { connection } => self.close(connection, owed),
        }
    }

    /// Closes a connection that the entity has closed, after what it is owed.
    fn close(&mut self, id: ConnectionId, owed: &mut Owed) {
        if let Some(bytes) = owed.remove(&id) {
            self.send(id, bytes);
        }
        self.forget(id);
    }

    /// Gives `self-update` a moment if a request asks for what runs and that is not known yet.
    async fn await_software(&mut self, pdu: &[u8]) {
        let Ok(Request::ReadDataByIdentifier { dids }) = Request::decode(pdu) else { return };
        let needed = dids.iter().any(|did: &Did| TcuContent::needs_software(*did));
        if !needed || self.software.borrow().is_some() || Instant::now() < self.software_from {
            return;
        }
        if tokio::time::timeout(SOFTWARE_PATIENCE, self.software.wait_for(Option::is_some)).await.is_err() {
            self.software_from = Instant::now() + SOFTWARE_PAUSE;
        }
    }

    fn send(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get(&id) else { return };
        connection.unread.fetch_add(bytes.len(), Ordering::Relaxed);
        if connection.writer.try_send(bytes).is_err() {
            self.disconnect_deaf(id);
        }
    }

    fn disconnect_deaf(&mut self, id: ConnectionId) {
        log::warn!("a tester does not read its answers and is disconnected");
        self.entity.handle_closed(self.now(), id);
        self.forget(id);
    }

    /// The connection is gone, and with it all that was its tester's alone.
    fn forget(&mut self, id: ConnectionId) {
        if let Some(closed) = self.connections.remove(&id) {
            closed.reader.abort();
        }
        self.server.client_gone(ClientId(id.0));
    }

    fn tell_status(&self) {
        let testers = u32::try_from(self.connections.len()).unwrap_or(u32::MAX);
        let session = session_word(self.server.session());
        self.status.send_if_modified(|status| {
            let changed = status.testers != testers || status.session != session;
            (status.testers, status.session) = (testers, session.to_owned());
            changed
        });
    }
}

fn session_word(session: SessionType) -> &'static str {
    match session {
        SessionType::Default => "default",
        SessionType::Programming => "programming",
        _ => "extended",
    }
}

async fn read_all(id: ConnectionId, mut stream: OwnedReadHalf, engine: mpsc::Sender<Incoming>) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        if engine.send(Incoming::Bytes(id, bytes)).await.is_err() {
            return;
        }
    }
    let _ = engine.send(Incoming::Closed(id)).await;
}

/// `unread`: what is queued; it falls with every piece that is written. `_writing`: held as long as any of it is.
async fn write_all(
    mut stream: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Vec<u8>>,
    unread: Arc<AtomicUsize>,
    _writing: Arc<()>,
) {
    while let Some(bytes) = answers.recv().await {
        match tokio::time::timeout(WRITE_PATIENCE, stream.write_all(&bytes)).await {
            Ok(Ok(())) => unread.fetch_sub(bytes.len(), Ordering::Relaxed),
            _ => return,
        };
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
