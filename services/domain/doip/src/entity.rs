use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::{
    ActivationCode, DiagnosticNackCode, Frame, HeaderNack, LogicalAddress, Message, Monotonic, PayloadType,
    ProtocolVersion, StreamDecoder, StreamItem, VehicleAnnouncement,
};

/// One TCP connection, numbered by the owner; a number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What an entity is and allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntitySettings {
    pub vehicle: VehicleAnnouncement,
    /// Addresses diagnostic messages are routed to: the entity's own, ECUs behind it, functional groups.
    pub targets: BTreeSet<LogicalAddress>,
    /// MCTS: testers with active routing at the same time. The owner accepts one connection more.
    pub max_testers: u8,
    /// Longest payload taken, in bytes.
    pub max_length: u32,
    /// Routing activation types taken; 00 and 01 are what testers use.
    pub activation_types: BTreeSet<u8>,
    /// T_TCP_Initial_Inactivity: 2 s until a routing activation.
    pub initial_inactivity: Duration,
    /// T_TCP_General_Inactivity: 5 min.
    pub general_inactivity: Duration,
    /// T_TCP_Alive_Check: 500 ms.
    pub alive_check: Duration,
    /// Whether it is a gateway (node type 00) or a node (01).
    pub gateway: bool,
}

impl EntitySettings {
    /// The standard's timers, eight testers, messages of up to 1 MiB, activation types 00 and 01.
    pub fn new(vehicle: VehicleAnnouncement, targets: impl IntoIterator<Item = LogicalAddress>) -> Self {
        let targets: BTreeSet<_> = targets.into_iter().chain([vehicle.address]).collect();
        Self {
            gateway: targets.len() > 1,
            vehicle,
            targets,
            max_testers: 8,
            max_length: 0x10_0000,
            activation_types: BTreeSet::from([0x00, 0x01]),
            initial_inactivity: Duration::from_secs(2),
            general_inactivity: Duration::from_secs(300),
            alive_check: Duration::from_millis(500),
        }
    }
}

/// Bytes for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTransmit {
    pub connection: ConnectionId,
    pub bytes: Vec<u8>,
}

/// What the owner must act on, after it has sent all pending transmits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityEvent {
    /// A UDS message for `target`; it is acknowledged already.
    Received { connection: ConnectionId, source: LogicalAddress, target: LogicalAddress, data: Vec<u8> },
    /// Routing is active for this tester.
    Activated { connection: ConnectionId, tester: LogicalAddress },
    /// Close this connection; the entity has forgotten it.
    Close { connection: ConnectionId },
}

/// A UDS message could not be sent: no tester has routing active on this connection (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection {} has no active routing", .connection.0)]
pub struct NotRouted {
    pub connection: ConnectionId,
}

#[derive(Debug)]
struct Connection {
    decoder: StreamDecoder,
    version: ProtocolVersion,
    tester: Option<LogicalAddress>,
    inactive_at: Monotonic,
    /// An alive check is out; silence until then closes the connection.
    alive_until: Option<Monotonic>,
}

/// A routing activation that waits for alive checks of other connections.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    tester: LogicalAddress,
    asked: BTreeSet<ConnectionId>,
    /// What the answer is when all of them are alive.
    denial: ActivationCode,
}

/// The vehicle's side of DoIP: all its TCP connections, and UDP.
#[derive(Debug)]
pub struct Entity {
    settings: EntitySettings,
    connections: BTreeMap<ConnectionId, Connection>,
    waiting: Vec<Waiting>,
    transmits: VecDeque<EntityTransmit>,
    events: VecDeque<EntityEvent>,
}

impl Entity {
    pub fn new(settings: EntitySettings) -> Self {
        Self {
            settings,
            connections: BTreeMap::new(),
            waiting: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn settings(&self) -> &EntitySettings {
        &self.settings
    }

    /// A connection was accepted.
    pub fn handle_connected(&mut self, now: Monotonic, id: ConnectionId) {
        let connection = Connection {
            decoder: StreamDecoder::new(self.settings.max_length),
            version: ProtocolVersion::V2012,
            tester: None,
            inactive_at: now + self.settings.initial_inactivity,
            alive_until: None,
        };
        self.connections.insert(id, connection);
    }

    /// The tester closed the connection, or it broke.
    pub fn handle_closed(&mut self, now: Monotonic, id: ConnectionId) {
        self.forget(id);
        self.settle_waiting(now);
    }

    /// Bytes from a connection.
    pub fn handle_input(&mut self, now: Monotonic, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.decoder.push(bytes);
        }
        while let Some(item) = self.connections.get_mut(&id).and_then(|connection| connection.decoder.next_item()) {
            match item {
                StreamItem::Frame(frame) => self.handle_frame(now, id, frame),
                StreamItem::Rejected(rejected) => {
                    self.transmit_as(id, rejected.version, Message::HeaderNack(rejected.nack));
                    if rejected.close {
                        self.close(id);
                    }
                }
            }
        }
        self.settle_waiting(now);
    }

    pub fn handle_timeout(&mut self, now: Monotonic) {
        let due = |c: &Connection| c.inactive_at <= now || c.alive_until.is_some_and(|until| until <= now);
        let overdue: Vec<_> = self.connections.iter().filter(|(_, c)| due(c)).map(|(&id, _)| id).collect();
        for id in overdue {
            self.close(id);
        }
        self.settle_waiting(now);
    }

    /// Sends a UDS message from an ECU to the tester of a connection.
    pub fn send(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        source: LogicalAddress,
        data: Vec<u8>,
    ) -> Result<(), NotRouted> {
        let target = self.keep_active(now, connection).ok_or(NotRouted { connection })?;
        self.transmit(connection, Message::Diagnostic { source, target, data });
        Ok(())
    }

    /// Closes a connection from our side (ISO 14229-5: after the positive answer to a reset).
    pub fn disconnect(&mut self, now: Monotonic, connection: ConnectionId) {
        self.close(connection);
        self.settle_waiting(now);
    }

    /// Answers a UDP datagram; `None`: stay silent.
    pub fn handle_datagram(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (version, answer) = match Frame::decode_datagram(datagram, self.settings.max_length) {
            Ok(Frame { version, message }) => (version, self.answer_datagram(message)?),
            // A datagram that is itself a negative acknowledge is never answered.
            Err(_) if matches!(datagram, [_, _, 0, 0, ..]) => return None,
            Err(rejected) => (rejected.version, Message::HeaderNack(nack_by_udp(datagram, rejected.nack))),
        };
        Some(Frame::new(version.of_answer(), answer).encode())
    }

    /// The announcement to send three times, 500 ms apart, when the entity starts.
    pub fn announcement(&self) -> Vec<u8> {
        Frame::new(ProtocolVersion::V2012, Message::Announcement(self.settings.vehicle.clone())).encode()
    }

    pub fn poll_transmit(&mut self) -> Option<EntityTransmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<EntityEvent> {
        self.events.pop_front()
    }

    /// Routing activations that wait for alive checks of other testers; one for a connection at most.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.connections.values().flat_map(|c| std::iter::once(c.inactive_at).chain(c.alive_until)).min()
    }

    fn answer_datagram(&self, message: Message) -> Option<Message> {
        let vehicle = &self.settings.vehicle;
        match message {
            Message::VehicleIdRequest => {}
            Message::VehicleIdRequestByEid(eid) if eid == vehicle.eid => {}
            Message::VehicleIdRequestByVin(vin) if vin == vehicle.vin => {}
            Message::EntityStatusRequest => {
                return Some(Message::EntityStatusResponse {
                    node_type: u8::from(!self.settings.gateway),
                    max_sockets: self.settings.max_testers,
                    open_sockets: u8::try_from(self.active()).unwrap_or(u8::MAX),
                    max_data_size: Some(self.settings.max_length),
                });
            }
            Message::PowerModeRequest => return Some(Message::PowerModeResponse(0x01)),
            other if other.payload_type().is_tcp_only() => {
                return Some(Message::HeaderNack(HeaderNack::UnknownPayloadType));
            }
            // Announcements and responses are ours to send.
            _ => return None,
        }
        Some(Message::Announcement(vehicle.clone()))
    }

    fn handle_frame(&mut self, now: Monotonic, id: ConnectionId, frame: Frame) {
        let active = self.keep_active(now, id).is_some();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.version = frame.version.of_answer();
            if active {
                connection.alive_until = None;
            }
        }
        match frame.message {
            Message::RoutingActivationRequest { source, activation_type, .. } => {
                self.activate(now, id, source, activation_type);
            }
            Message::Diagnostic { source, target, data } => self.handle_diagnostic(id, source, target, data),
            // Noted above: the tester is alive. An answer nobody asked for changes nothing.
            Message::AliveCheckResponse { .. } => {}
            // Acknowledgements and responses are ours to send; a negative acknowledge is never answered.
            Message::HeaderNack(_) | Message::DiagnosticAck { .. } | Message::DiagnosticNack { .. } => {}
            _ => self.transmit(id, Message::HeaderNack(HeaderNack::UnknownPayloadType)),
        }
    }

    fn handle_diagnostic(&mut self, id: ConnectionId, source: LogicalAddress, target: LogicalAddress, data: Vec<u8>) {
        let tester = self.connections.get(&id).and_then(|connection| connection.tester);
        if tester != Some(source) {
            // Also before activation (ISO 13400-2:2019, REQ 7.DoIP-070).
            self.refuse_diagnostic(id, source, target, DiagnosticNackCode::InvalidSource);
            return self.close(id);
        }
        if !self.settings.targets.contains(&target) {
            return self.refuse_diagnostic(id, source, target, DiagnosticNackCode::UnknownTarget);
        }
        self.transmit(id, Message::DiagnosticAck { source: target, target: source, code: 0, copy: Vec::new() });
        self.events.push_back(EntityEvent::Received { connection: id, source, target, data });
    }

    fn refuse_diagnostic(
        &mut self,
        id: ConnectionId,
        source: LogicalAddress,
        target: LogicalAddress,
        code: DiagnosticNackCode,
    ) {
        self.transmit(id, Message::DiagnosticNack { source: target, target: source, code, copy: Vec::new() });
    }

    fn activate(&mut self, now: Monotonic, id: ConnectionId, tester: LogicalAddress, activation_type: u8) {
        if !tester.is_tester() {
            return self.answer_activation(now, id, tester, ActivationCode::UnknownSource);
        }
        if !self.settings.activation_types.contains(&activation_type) {
            return self.answer_activation(now, id, tester, ActivationCode::UnsupportedType);
        }
        match self.connections.get(&id).and_then(|connection| connection.tester) {
            Some(active) if active == tester => {
                return self.answer_activation(now, id, tester, ActivationCode::Activated);
            }
            Some(_) => return self.answer_activation(now, id, tester, ActivationCode::OtherSourceOnSocket),
            None => {}
        }
        match self.waiting.iter().find(|waiting| waiting.connection == id).map(|waiting| waiting.tester) {
            // Its answer is to come.
            Some(waiting) if waiting == tester => {}
            Some(_) => self.answer_activation(now, id, tester, ActivationCode::OtherSourceOnSocket),
            None => self.activate_if_free(now, id, tester),
        }
    }

    /// The checks that depend on other testers: activates, or waits until those in the way have shown whether they are alive.
    fn activate_if_free(&mut self, now: Monotonic, id: ConnectionId, tester: LogicalAddress) {
        let elsewhere = self.connections.iter().find(|(_, c)| c.tester == Some(tester)).map(|(&id, _)| id);
        let (asked, denial) = match elsewhere {
            Some(other) => (BTreeSet::from([other]), ActivationCode::SourceActiveElsewhere),
            None if self.active() >= usize::from(self.settings.max_testers) => {
                let active = self.connections.iter().filter(|(_, c)| c.tester.is_some());
                (active.map(|(&id, _)| id).collect(), ActivationCode::NoSocketFree)
            }
            None => return self.answer_activation(now, id, tester, ActivationCode::Activated),
        };
        self.check_alive(now, &asked);
        self.waiting.push(Waiting { connection: id, tester, asked, denial });
    }

    /// A check that is out already counts for all who wait: asked again and again, a silent tester would never be found gone.
    fn check_alive(&mut self, now: Monotonic, asked: &BTreeSet<ConnectionId>) {
        let until = now + self.settings.alive_check;
        for &id in asked {
            let unasked = self.connections.get_mut(&id).filter(|connection| connection.alive_until.is_none());
            let Some(connection) = unasked else { continue };
            connection.alive_until = Some(until);
            self.transmit(id, Message::AliveCheckRequest);
        }
    }

    /// Settles the activations whose alive checks are decided. All alive denies. One tester gone makes room, for the first who waited:
    /// the next may find the room taken, or its address active by now, and is checked again.
    fn settle_waiting(&mut self, now: Monotonic) {
        for waiting in std::mem::take(&mut self.waiting) {
            if !self.connections.contains_key(&waiting.connection) {
                continue;
            }
            let gone = waiting.asked.iter().any(|id| !self.connections.contains_key(id));
            let unsure = |id| self.connections.get(id).is_some_and(|c| c.alive_until.is_some());
            if gone {
                self.activate_if_free(now, waiting.connection, waiting.tester);
            } else if waiting.asked.iter().any(unsure) {
                self.waiting.push(waiting);
            } else {
                self.answer_activation(now, waiting.connection, waiting.tester, waiting.denial);
            }
        }
    }

    fn answer_activation(&mut self, now: Monotonic, id: ConnectionId, tester: LogicalAddress, code: ActivationCode) {
        let entity = self.settings.vehicle.address;
        self.transmit(id, Message::RoutingActivationResponse { tester, entity, code, oem: None });
        if !code.is_active() {
            return self.close(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.tester = Some(tester);
            self.keep_active(now, id);
            self.events.push_back(EntityEvent::Activated { connection: id, tester });
        }
    }

    /// T_TCP_General_Inactivity begins anew with all that is received or sent. The tester, where routing is active.
    fn keep_active(&mut self, now: Monotonic, id: ConnectionId) -> Option<LogicalAddress> {
        let connection = self.connections.get_mut(&id)?;
        let tester = connection.tester?;
        connection.inactive_at = now + self.settings.general_inactivity;
        Some(tester)
    }

    fn active(&self) -> usize {
        self.connections.values().filter(|connection| connection.tester.is_some()).count()
    }

    fn transmit(&mut self, id: ConnectionId, message: Message) {
        if let Some(version) = self.connections.get(&id).map(|connection| connection.version) {
            self.transmit_as(id, version, message);
        }
    }

    fn transmit_as(&mut self, connection: ConnectionId, version: ProtocolVersion, message: Message) {
        self.transmits.push_back(EntityTransmit { connection, bytes: Frame::new(version, message).encode() });
    }

    fn close(&mut self, connection: ConnectionId) {
        if self.forget(connection) {
            self.events.push_back(EntityEvent::Close { connection });
        }
    }

    fn forget(&mut self, connection: ConnectionId) -> bool {
        self.waiting.retain(|waiting| waiting.connection != connection);
        self.connections.remove(&connection).is_some()
    }
}

/// Why a datagram is refused: what belongs on TCP has an unknown type here, before its length matters.
fn nack_by_udp(datagram: &[u8], nack: HeaderNack) -> HeaderNack {
    let kind = match *datagram {
        [_, _, high, low, ..] => PayloadType::from_code(u16::from_be_bytes([high, low])),
        _ => None,
    };
    let misplaced = nack != HeaderNack::IncorrectPattern && kind.is_some_and(PayloadType::is_tcp_only);
    if misplaced { HeaderNack::UnknownPayloadType } else { nack }
}
