use std::time::Duration;

use async_trait::async_trait;
use pitstop_doip::{DiagnosticNackCode, LogicalAddress, Tester, TesterError, TesterEvent, TesterSettings};
use pitstop_uds::Addressing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::{DiagnosticLink, LinkAddress, LinkError};

/// Messages that wait for their receiver.
const RECEIVED: usize = 8;

/// After "out of memory" (05) the message is sent again, three times, 200 ms apart (as open testers do).
const MEMORY_RETRIES: u32 = 3;
const MEMORY_PAUSE: Duration = Duration::from_millis(200);

/// Between two tries to connect: an entity that restarts refuses connections for a while.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How to reach one ECU by DoIP.
#[derive(Debug, Clone)]
pub struct DoipSettings {
    /// For error texts.
    pub ecu: String,
    pub host: String,
    pub port: u16,
    /// Where messages for this ECU go: its own logical address, behind a gateway too.
    pub target: LogicalAddress,
    /// Where functional requests go; `None`: the ECU cannot be addressed so.
    pub functional: Option<LogicalAddress>,
    /// Our address, version, activation type and timers. Two connections to one entity at the same time need two addresses.
    pub tester: TesterSettings,
    /// How long connecting is tried before it fails. 10 s: an ECU that restarts is back by then.
    pub connect_time: Duration,
}

impl DoipSettings {
    /// Tester address 0E80, no functional address. `None` when the link is not `tcp:`.
    pub fn new(ecu: impl Into<String>, link: &LinkAddress, target: u16) -> Option<Self> {
        let LinkAddress::Tcp { host, port } = link else { return None };
        Some(Self {
            ecu: ecu.into(),
            host: host.clone(),
            port: *port,
            target: LogicalAddress(target),
            functional: None,
            tester: TesterSettings::new(LogicalAddress(0x0E80)),
            connect_time: Duration::from_secs(10),
        })
    }
}

/// UDS messages over DoIP. A task of its own drives the connection, so alive checks are answered whatever the owner does.
pub struct DoipConnection {
    settings: DoipSettings,
    running: Option<Running>,
}

struct Running {
    commands: mpsc::Sender<Command>,
    received: mpsc::Receiver<Vec<u8>>,
}

struct Command {
    target: LogicalAddress,
    pdu: Vec<u8>,
    done: oneshot::Sender<Result<(), Refusal>>,
}

enum Refusal {
    Nack(DiagnosticNackCode),
    Tester(TesterError),
    Io(std::io::Error),
}

impl DoipConnection {
    /// Connects and activates routing.
    pub async fn open(settings: DoipSettings) -> Result<Self, LinkError> {
        let mut connection = Self { settings, running: None };
        connection.reopen().await?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<TcpStream, LinkError> {
        let DoipSettings { ecu, host, port, connect_time, .. } = &self.settings;
        let deadline = Instant::now() + *connect_time;
        loop {
            let attempt = tokio::time::timeout_at(deadline, TcpStream::connect((host.as_str(), *port))).await;
            match attempt {
                Ok(Ok(stream)) => {
                    // Without this a small request waits for the acknowledgement of the one before.
                    stream.set_nodelay(true).map_err(|source| LinkError::Io { ecu: ecu.clone(), source })?;
                    return Ok(stream);
                }
                Ok(Err(source)) if Instant::now() + CONNECT_PAUSE >= deadline => {
                    return Err(LinkError::Io { ecu: ecu.clone(), source });
                }
                Ok(Err(_)) => tokio::time::sleep(CONNECT_PAUSE).await,
                Err(_) => {
                    return Err(LinkError::Timeout { ecu: ecu.clone(), what: "connecting", limit: *connect_time });
                }
            }
        }
    }

    fn closed(&self) -> LinkError {
        LinkError::Closed { ecu: self.settings.ecu.clone() }
    }

    fn error(&self, refusal: Refusal) -> LinkError {
        let ecu = self.settings.ecu.clone();
        match refusal {
            Refusal::Io(source) => LinkError::Io { ecu, source },
            Refusal::Nack(code) => LinkError::Refused { ecu, what: "diagnostic message", code: code.code() },
            Refusal::Tester(TesterError::ActivationRefused(code)) => {
                LinkError::Refused { ecu, what: "routing activation", code: code.code() }
            }
            Refusal::Tester(TesterError::NoAck) => {
                LinkError::Timeout { ecu, what: "acknowledgement", limit: self.settings.tester.ack_time }
            }
            Refusal::Tester(TesterError::NoActivation) => {
                LinkError::Timeout { ecu, what: "routing activation", limit: self.settings.tester.activation_time }
            }
            Refusal::Tester(error) => LinkError::Transport { ecu, what: error.to_string() },
        }
    }
}

#[async_trait]
impl DiagnosticLink for DoipConnection {
    async fn send(&mut self, addressing: Addressing, pdu: &[u8]) -> Result<(), LinkError> {
        let target = match (addressing, self.settings.functional) {
            (Addressing::Physical, _) => self.settings.target,
            (Addressing::Functional, Some(address)) => address,
            (Addressing::Functional, None) => {
                let what = "no functional address is known".into();
                return Err(LinkError::Transport { ecu: self.settings.ecu.clone(), what });
            }
        };
        for attempt in 0.. {
            let Some(running) = &self.running else { return Err(self.closed()) };
            let (done, outcome) = oneshot::channel();
            let command = Command { target, pdu: pdu.to_vec(), done };
            running.commands.send(command).await.map_err(|_| self.closed())?;
            match outcome.await.map_err(|_| self.closed())? {
                Ok(()) => return Ok(()),
                Err(Refusal::Nack(DiagnosticNackCode::OutOfMemory)) if attempt < MEMORY_RETRIES => {
                    tokio::time::sleep(MEMORY_PAUSE).await;
                }
                Err(refusal) => return Err(self.error(refusal)),
            }
        }
        Err(self.closed())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        let closed = self.closed();
        let running = self.running.as_mut().ok_or_else(|| LinkError::Closed { ecu: self.settings.ecu.clone() })?;
        running.received.recv().await.ok_or(closed)
    }

    async fn reopen(&mut self) -> Result<(), LinkError> {
        // The old connection ends first: the entity allows our address once.
        self.running = None;
        let stream = self.connect().await?;
        let origin = Instant::now();
        let (commands, orders) = mpsc::channel(1);
        let (deliveries, received) = mpsc::channel(RECEIVED);
        let (ready, activated) = oneshot::channel();
        let driver = Driver {
            stream,
            write_time: self.settings.tester.ack_time,
            tester: Tester::new(Duration::ZERO, self.settings.tester),
            origin,
            target: self.settings.target,
            functional: self.settings.functional.is_some(),
            deliveries,
            waiting: Some(ready),
        };
        tokio::spawn(driver.run(orders));
        match activated.await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return Err(self.error(refusal)),
            Err(_) => return Err(self.closed()),
        }
        self.running = Some(Running { commands, received });
        Ok(())
    }

    fn has_connection(&self) -> bool {
        true
    }
}

struct Driver {
    stream: TcpStream,
    /// A message that is not even written in the time for its acknowledgement is lost.
    write_time: Duration,
    tester: Tester,
    origin: Instant,
    target: LogicalAddress,
    functional: bool,
    deliveries: mpsc::Sender<Vec<u8>>,
    /// Who waits for the activation, later for the acknowledgement of the message under way.
    waiting: Option<oneshot::Sender<Result<(), Refusal>>>,
}

impl Driver {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        let outcome = self.drive(&mut orders).await;
        if let Err(refusal) = outcome {
            if matches!(refusal, Refusal::Tester(TesterError::NoAck)) {
                // What the entity has not taken by now must not reach it later, when nobody stands behind it any more.
                let _ = self.stream.set_zero_linger();
            }
            self.settle(Err(refusal));
        }
    }

    async fn drive(&mut self, orders: &mut mpsc::Receiver<Command>) -> Result<(), Refusal> {
        let mut buffer = vec![0; 0x1_0000];
        loop {
            while let Some(bytes) = self.tester.poll_transmit() {
                let written = tokio::time::timeout(self.write_time, self.stream.write_all(&bytes)).await;
                written.map_err(|_| Refusal::Tester(TesterError::NoAck))?.map_err(Refusal::Io)?;
            }
            while let Some(event) = self.tester.poll_event() {
                self.handle_event(event)?;
            }
            let deadline = self.tester.poll_timeout().map(|at| self.origin + at);
            let overdue = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = self.stream.read(&mut buffer) => {
                    match count.map_err(Refusal::Io)? {
                        // Dropping `deliveries` tells the owner; an acknowledgement waited for fails as closed.
                        0 => return Ok(()),
                        count => self.tester.handle_input(buffer.get(..count).unwrap_or_default()),
                    }
                }
                () = overdue => self.tester.handle_timeout(self.origin.elapsed()),
                order = orders.recv(), if self.waiting.is_none() => {
                    let Some(Command { target, pdu, done }) = order else { return Ok(()) };
                    if done.is_closed() {
                        continue;
                    }
                    self.waiting = Some(done);
                    if let Err(error) = self.tester.send(self.origin.elapsed(), target, &pdu) {
                        log::warn!("a DoIP message was not taken: {error}");
                        self.waiting = None;
                    }
                }
            }
        }
    }

    fn handle_event(&mut self, event: TesterEvent) -> Result<(), Refusal> {
        match event {
            TesterEvent::Activated { .. } | TesterEvent::Acknowledged => self.settle(Ok(())),
            TesterEvent::Refused(code) => self.settle(Err(Refusal::Nack(code))),
            TesterEvent::Received { source, data } if source == self.target || self.functional => {
                if self.deliveries.try_send(data).is_err() {
                    log::warn!("a DoIP message nobody fetched was dropped");
                }
            }
            TesterEvent::Received { source, .. } => log::debug!("a DoIP message of {source} is not for this link"),
            TesterEvent::Failed(error) => return Err(Refusal::Tester(error)),
        }
        Ok(())
    }

    fn settle(&mut self, outcome: Result<(), Refusal>) {
        if let Some(waiting) = self.waiting.take() {
            // Who waited may have given up.
            drop(waiting.send(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
