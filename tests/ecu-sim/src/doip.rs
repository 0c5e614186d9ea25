//! The DoIP gateway: its own ECU and those behind it, on one TCP port, and vehicle identification on the same UDP port.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use pitstop_doip::{
    ConnectionId, Entity, EntityEvent, EntitySettings, EntityTransmit, LogicalAddress, VehicleAnnouncement,
};
use pitstop_types::Vin;
use pitstop_uds::Addressing;
use pitstop_uds::server::ClientId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::actor::{Answer, EcuHandle, Status};

/// The group all ECUs of the gateway belong to.
const ALL_ECUS: LogicalAddress = LogicalAddress(0xE400);

/// Bytes and connections that wait for the entity's task.
const INPUTS: usize = 64;
const ANSWERS: usize = 8;

/// The gateway's own handle and what lies behind it, by logical address.
pub struct Gateway {
    pub vin: Vin,
    pub address: LogicalAddress,
    pub ecus: BTreeMap<LogicalAddress, EcuHandle>,
    pub status: watch::Receiver<Status>,
}

enum Input {
    Connected { connection: ConnectionId, write: mpsc::Sender<Write> },
    Bytes { connection: ConnectionId, bytes: Vec<u8> },
    Closed { connection: ConnectionId },
    Answer { connection: ConnectionId, from: LogicalAddress, answer: Answer },
    Datagram { from: SocketAddr, bytes: Vec<u8> },
}

enum Write {
    Bytes(Vec<u8>),
    Close,
}

/// Starts serving and says where.
pub async fn serve(gateway: Gateway, listen: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let local = listener.local_addr()?;
    let (inputs, queue) = mpsc::channel(INPUTS);
    let udp = match UdpSocket::bind(local).await {
        Ok(socket) => Some(std::sync::Arc::new(socket)),
        Err(error) => {
            log::warn!("no vehicle identification, UDP {local}: {error}");
            None
        }
    };
    if let Some(socket) = udp.clone() {
        tokio::spawn(receive_datagrams(socket, inputs.clone()));
    }
    tokio::spawn(accept(listener, inputs.clone()));
    let targets = gateway.ecus.keys().copied().chain([ALL_ECUS]);
    let mut settings = EntitySettings::new(announcement(&gateway), targets);
    // The limit of one diagnostic message: the longest block and DoIP's own fields.
    settings.max_length = 0x2_0000;
    let starts = gateway.status.borrow().starts;
    let task = Task {
        entity: Entity::new(settings),
        starts,
        gateway,
        origin: Instant::now(),
        writers: BTreeMap::new(),
        inputs,
        udp,
    };
    tokio::spawn(task.run(queue));
    Ok(local)
}

fn announcement(gateway: &Gateway) -> VehicleAnnouncement {
    let mut vin = [b'0'; 17];
    for (to, from) in vin.iter_mut().zip(gateway.vin.as_str().bytes()) {
        *to = from;
    }
    // A locally administered address.
    let eid = [0x02, 0x00, 0x5E, 0x00, 0x10, 0x01];
    VehicleAnnouncement { vin, address: gateway.address, eid, gid: eid, further_action: 0, sync_status: None }
}

async fn accept(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    for number in 1.. {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, ConnectionId(number), inputs.clone()));
            }
            Err(error) => {
                log::error!("the DoIP port: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, connection: ConnectionId, inputs: mpsc::Sender<Input>) {
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.into_split();
    let (writer, mut writes) = mpsc::channel(INPUTS);
    if inputs.send(Input::Connected { connection, write: writer }).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 0x1_0000];
    loop {
        tokio::select! {
            biased;
            order = writes.recv() => match order {
                Some(Write::Bytes(bytes)) => {
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Some(Write::Close) | None => return,
            },
            count = read.read(&mut buffer) => {
                let bytes = match count {
                    Ok(count) if count > 0 => buffer.get(..count).unwrap_or_default().to_vec(),
                    _ => break,
                };
                if inputs.send(Input::Bytes { connection, bytes }).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = inputs.send(Input::Closed { connection }).await;
}

async fn receive_datagrams(socket: std::sync::Arc<UdpSocket>, inputs: mpsc::Sender<Input>) {
    let mut buffer = [0; 1024];
    while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        if inputs.send(Input::Datagram { from, bytes }).await.is_err() {
            return;
        }
    }
}

struct Task {
    gateway: Gateway,
    entity: Entity,
    origin: Instant,
    starts: u64,
    writers: BTreeMap<ConnectionId, mpsc::Sender<Write>>,
    inputs: mpsc::Sender<Input>,
    udp: Option<std::sync::Arc<UdpSocket>>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        let mut status = self.gateway.status.clone();
        loop {
            let deadline = self.entity.poll_timeout().map(|at| self.origin + at);
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                input = queue.recv() => match input {
                    Some(input) => self.handle(input).await,
                    None => return,
                },
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Status { starts, .. } = *status.borrow_and_update();
                    if std::mem::replace(&mut self.starts, starts) != starts {
                        self.lose_connections();
                    }
                }
                () = due => self.entity.handle_timeout(self.origin.elapsed()),
            }
            self.flush().await;
        }
    }

    async fn handle(&mut self, input: Input) {
        let now = self.origin.elapsed();
        match input {
            Input::Connected { connection, write } => {
                // A gateway that boots takes no connections; dropping the writer closes this one.
                if self.gateway.status.borrow().up {
                    self.entity.handle_connected(now, connection);
                    self.writers.insert(connection, write);
                }
            }
            Input::Bytes { connection, bytes } => self.entity.handle_input(now, connection, &bytes),
            Input::Closed { connection } => {
                self.writers.remove(&connection);
                self.entity.handle_closed(now, connection);
            }
            Input::Answer { connection, from, answer } => match answer {
                Answer::Pdu(pdu) => {
                    if let Err(error) = self.entity.send(now, connection, from, pdu) {
                        log::debug!("an answer was lost: {error}");
                    }
                }
                Answer::Close => self.entity.disconnect(now, connection),
                Answer::Restarted if from == self.gateway.address => self.lose_connections(),
                Answer::Restarted => {}
            },
            Input::Datagram { from, bytes } => {
                if self.gateway.status.borrow().up
                    && let (Some(socket), Some(answer)) = (&self.udp, self.entity.handle_datagram(&bytes))
                {
                    // A lost datagram is UDP's to lose.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        }
    }

    async fn flush(&mut self) {
        // In one write where acknowledgement and answer are ready together.
        let mut batches: BTreeMap<ConnectionId, Vec<u8>> = BTreeMap::new();
        while let Some(EntityTransmit { connection, bytes }) = self.entity.poll_transmit() {
            batches.entry(connection).or_default().extend(bytes);
        }
        for (connection, bytes) in batches {
            self.write(connection, Write::Bytes(bytes));
        }
        while let Some(event) = self.entity.poll_event() {
            match event {
                EntityEvent::Received { connection, target, data, .. } => self.route(connection, target, data).await,
                EntityEvent::Activated { connection, tester } => log::debug!("{connection:?} is tester {tester}"),
                EntityEvent::Close { connection } => {
                    self.write(connection, Write::Close);
                    self.writers.remove(&connection);
                }
            }
        }
    }

    async fn route(&mut self, connection: ConnectionId, target: LogicalAddress, data: Vec<u8>) {
        let addressing = if target == ALL_ECUS { Addressing::Functional } else { Addressing::Physical };
        for (&address, ecu) in &self.gateway.ecus {
            if target != address && target != ALL_ECUS {
                continue;
            }
            let (answers, mut ready) = mpsc::channel(ANSWERS);
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                while let Some(answer) = ready.recv().await {
                    if inputs.send(Input::Answer { connection, from: address, answer }).await.is_err() {
                        return;
                    }
                }
            });
            if ecu.request(ClientId(connection.0), addressing, data.clone(), answers).await.is_err() {
                log::error!("the ECU with address {address} has ended");
            }
        }
    }

    /// The gateway restarts: its connections are simply gone.
    fn lose_connections(&mut self) {
        let now = self.origin.elapsed();
        for (connection, writer) in std::mem::take(&mut self.writers) {
            // What was queued before, such as the answer to the reset, goes out first.
            let _ = writer.try_send(Write::Close);
            self.entity.handle_closed(now, connection);
        }
    }

    fn write(&mut self, connection: ConnectionId, write: Write) {
        // A tester that does not read its answers loses its connection.
        if let Some(writer) = self.writers.get(&connection)
            && writer.try_send(write).is_err()
        {
            self.writers.remove(&connection);
        }
    }
}
