use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_isotp::{Event, IsoTp, Monotonic, SendError, Settings};
use pitstop_uds::Addressing;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::{CanBus, CanError, CanFrame, CanId, DiagnosticLink, FrameReceiver, LinkError, Sent};

/// Messages that wait for their receiver; a diagnostic session has one under way, so a few are plenty.
const RECEIVED: usize = 8;

/// Which identifiers one side of a diagnostic channel uses, and how it speaks.
#[derive(Debug, Clone)]
pub struct IsoTpSettings {
    /// Who is at the other end, for error texts.
    pub ecu: String,
    pub transmit: CanId,
    pub receive: CanId,
    /// Tester: where functional requests go (7DF).
    pub functional_transmit: Option<CanId>,
    /// ECU: where functional requests come from.
    pub functional_receive: Option<CanId>,
    /// CAN FD frames instead of classic ones.
    pub fd: bool,
    pub isotp: Settings,
}

impl IsoTpSettings {
    /// A tester's channel to one ECU; functional requests go to 7DF.
    pub fn tester(ecu: impl Into<String>, request: CanId, response: CanId, fd: bool) -> Self {
        Self {
            ecu: ecu.into(),
            transmit: request,
            receive: response,
            functional_transmit: Some(CanId::Standard(0x7DF)),
            functional_receive: None,
            fd,
            isotp: if fd { Settings::fd() } else { Settings::classic() },
        }
    }

    /// The ECU's side of the same channel.
    pub fn ecu(ecu: impl Into<String>, request: CanId, response: CanId, fd: bool) -> Self {
        let functional = Some(CanId::Standard(0x7DF));
        let tester = Self::tester(ecu, response, request, fd);
        Self { functional_transmit: None, functional_receive: functional, ..tester }
    }
}

/// UDS messages over ISO-TP on a CAN bus. A task of its own drives the protocol, so flow control is answered in time whatever the
/// owner does; dropping the channel ends it.
pub struct IsoTpChannel {
    ecu: String,
    commands: mpsc::Sender<Command>,
    received: mpsc::Receiver<(Addressing, Vec<u8>)>,
}

enum Command {
    Send { addressing: Addressing, pdu: Vec<u8>, done: Done },
    Reset,
}

/// Tells who ordered a message how it ended; closed once they have given up.
type Done = oneshot::Sender<Result<(), LinkError>>;

impl IsoTpChannel {
    /// Opens a channel on a bus.
    pub fn open(bus: &CanBus, settings: IsoTpSettings) -> Result<Self, LinkError> {
        let transport = |what: String| LinkError::Transport { ecu: settings.ecu.clone(), what };
        let machine = IsoTp::new(settings.isotp.clone()).map_err(|error| transport(error.to_string()))?;
        if settings.fd && !bus.is_fd() {
            return Err(LinkError::Bus { ecu: settings.ecu, source: CanError::NoFd { bus: bus.name().into() } });
        }
        let ids = std::iter::once(settings.receive).chain(settings.functional_receive).collect();
        let (commands, orders) = mpsc::channel(1);
        let (deliveries, received) = mpsc::channel(RECEIVED);
        let ecu = settings.ecu.clone();
        let driver = Driver {
            frames: bus.subscribe(Some(ids)),
            bus: bus.clone(),
            settings,
            machine,
            origin: Instant::now(),
            waiting: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            sending: None,
            functional: None,
            deliveries,
        };
        tokio::spawn(driver.run(orders));
        Ok(Self { ecu, commands, received })
    }

    /// The next message and whether it was addressed to this ECU alone; for the ECU's side. Cancel safe.
    pub async fn receive_addressed(&mut self) -> Result<(Addressing, Vec<u8>), LinkError> {
        self.received.recv().await.ok_or_else(|| self.closed())
    }

    fn closed(&self) -> LinkError {
        LinkError::Closed { ecu: self.ecu.clone() }
    }
}

#[async_trait]
impl DiagnosticLink for IsoTpChannel {
    async fn send(&mut self, addressing: Addressing, pdu: &[u8]) -> Result<(), LinkError> {
        let (done, outcome) = oneshot::channel();
        let command = Command::Send { addressing, pdu: pdu.to_vec(), done };
        self.commands.send(command).await.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())?
    }

    async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        self.receive_addressed().await.map(|(_, pdu)| pdu)
    }

    async fn reopen(&mut self) -> Result<(), LinkError> {
        self.commands.send(Command::Reset).await.map_err(|_| self.closed())?;
        while self.received.try_recv().is_ok() {}
        Ok(())
    }

    fn has_connection(&self) -> bool {
        false
    }
}

struct Driver {
    bus: CanBus,
    frames: FrameReceiver,
    settings: IsoTpSettings,
    machine: IsoTp,
    origin: Instant,
    /// Frames the bus has no room for yet, oldest first.
    waiting: VecDeque<(Whose, CanFrame)>,
    /// Frames with the bus, oldest first; an entry that is dropped takes its frame back.
    unconfirmed: VecDeque<(Whose, Sent)>,
    sending: Option<Done>,
    /// Its frame is in `waiting` or `unconfirmed` for as long as this is here.
    functional: Option<Functional>,
    deliveries: mpsc::Sender<(Addressing, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Machine,
    Functional,
}

/// A functional request is one frame and not the machine's, so it has its N_As here.
struct Functional {
    done: Done,
    until: Instant,
}

impl Driver {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        if let Err(source) = self.drive(&mut orders).await
            && let Some(done) = self.sending.take()
        {
            // Who ordered it may have given up.
            let _ = done.send(Err(LinkError::Bus { ecu: self.settings.ecu.clone(), source }));
        }
    }

    async fn drive(&mut self, orders: &mut mpsc::Receiver<Command>) -> Result<(), CanError> {
        loop {
            self.flush()?;
            let deadline = self.deadline();
            let overdue = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let confirmed = async {
                match self.unconfirmed.front_mut() {
                    Some((_, sent)) => sent.await,
                    None => std::future::pending().await,
                }
            };
            let handed_over = async {
                if self.waiting.is_empty() {
                    std::future::pending::<()>().await;
                }
                let room = self.bus.room().await?;
                Ok::<_, CanError>(self.waiting.pop_front().map(|(whose, frame)| (whose, room.send(frame))))
            };
            tokio::select! {
                // What was given up goes first: a bus that has room again in the same moment must not get it.
                biased;
                () = given_up(self.sending.as_mut()) => self.reset(),
                () = given_up(self.functional.as_mut().map(|functional| &mut functional.done)) => {
                    self.end_functional();
                }
                frame = self.frames.next() => self.handle_frame(frame)?,
                result = confirmed => self.handle_confirmed(result)?,
                handed_over = handed_over => self.unconfirmed.extend(handed_over?),
                () = overdue => {}
                order = orders.recv() => match order {
                    Some(Command::Send { addressing, pdu, done }) => self.send(addressing, pdu, done)?,
                    Some(Command::Reset) => {
                        self.reset();
                        self.end_functional();
                    }
                    None => return Ok(()),
                },
            }
            // A stream of frames must not keep a due timer waiting.
            self.machine.handle_timeout(self.now());
            self.fail_overdue();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let functional = self.functional.iter().map(|functional| functional.until);
        functional.chain(self.machine.poll_timeout().map(|at| self.origin + at)).min()
    }

    fn send(&mut self, addressing: Addressing, pdu: Vec<u8>, done: Done) -> Result<(), CanError> {
        if done.is_closed() {
            return Ok(());
        }
        // The owner orders one message at a time: one still here is given up.
        self.end_functional();
        if self.sending.is_some() {
            self.reset();
        }
        let transport = |what: String| LinkError::Transport { ecu: self.settings.ecu.clone(), what };
        match (addressing, self.settings.functional_transmit) {
            (Addressing::Functional, Some(id)) => {
                match IsoTp::single_frame(&self.settings.isotp, &pdu) {
                    Ok(data) => {
                        let until = Instant::now() + self.settings.isotp.timeout;
                        let frame = CanFrame::new(id, self.settings.fd, &data)?;
                        self.functional = Some(Functional { done, until });
                        self.waiting.push_back((Whose::Functional, frame));
                    }
                    Err(error) => drop(done.send(Err(transport(error.to_string())))),
                }
                return Ok(());
            }
            (Addressing::Functional, None) => {
                drop(done.send(Err(transport("the channel has no functional address".into()))));
                return Ok(());
            }
            (Addressing::Physical, _) => {}
        }
        match self.machine.send(self.now(), pdu) {
            Ok(()) => self.sending = Some(done),
            Err(error) => drop(done.send(Err(transport(error.to_string())))),
        }
        Ok(())
    }

    fn handle_frame(&mut self, frame: Result<CanFrame, CanError>) -> Result<(), CanError> {
        let frame = match frame {
            Ok(frame) => frame,
            // The transport protocol notices by itself that frames are missing.
            Err(CanError::Lagged { bus }) => {
                log::warn!("{}: frames of {bus} were lost", self.settings.ecu);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if Some(frame.id()) == self.settings.functional_receive {
            self.handle_functional(&frame);
        } else {
            self.machine.handle_input(self.now(), frame.data());
        }
        Ok(())
    }

    /// Functional requests are single frames; a machine of its own keeps them from disturbing a reception under way.
    fn handle_functional(&mut self, frame: &CanFrame) {
        let Ok(mut once) = IsoTp::new(self.settings.isotp.clone()) else { return };
        once.handle_input(Monotonic::ZERO, frame.data());
        if let Some(Event::Received(pdu)) = once.poll_event() {
            self.deliver(Addressing::Functional, pdu);
        }
    }

    fn handle_confirmed(&mut self, result: Result<(), CanError>) -> Result<(), CanError> {
        let late = match result {
            Ok(()) => false,
            Err(CanError::NotSent { .. }) => true,
            Err(error) => return Err(error),
        };
        match self.unconfirmed.pop_front() {
            Some((Whose::Machine, _)) => {
                self.machine.handle_sent(self.now());
                if late {
                    let error = self.not_sent();
                    self.settle(Err(error));
                    self.reset();
                }
            }
            Some((Whose::Functional, _)) => {
                let outcome = if late { Err(self.not_sent()) } else { Ok(()) };
                if let Some(Functional { done, .. }) = self.functional.take() {
                    // Who ordered it may have given up.
                    drop(done.send(outcome));
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Hands frames to the bus as far as it has room; it never waits, so that timers run on a bus that takes nothing.
    fn flush(&mut self) -> Result<(), CanError> {
        while let Some(event) = self.machine.poll_event() {
            self.handle_event(event);
        }
        while let Some(data) = self.machine.poll_transmit() {
            let frame = CanFrame::new(self.settings.transmit, self.settings.fd, &data)?;
            self.waiting.push_back((Whose::Machine, frame));
        }
        while !self.waiting.is_empty()
            && let Some(room) = self.bus.try_room()?
        {
            let next = self.waiting.pop_front();
            self.unconfirmed.extend(next.map(|(whose, frame)| (whose, room.send(frame))));
        }
        Ok(())
    }

    /// Ends the message under way in both directions and takes its frames back: a bus that recovers must not carry a request
    /// that nobody stands behind any more.
    fn reset(&mut self) {
        self.sending = None;
        self.machine.reset();
        self.withdraw_message();
    }

    fn withdraw_message(&mut self) {
        // The machine counts on a confirmation for each frame it gave, also when it has given up sending.
        for _ in 0..self.withdraw(Whose::Machine) {
            self.machine.handle_sent(self.now());
        }
    }

    /// Takes the functional request back, if there is one: sent late, it would silence the whole bus for a job that has moved on.
    fn end_functional(&mut self) -> Option<Done> {
        self.withdraw(Whose::Functional);
        self.functional.take().map(|functional| functional.done)
    }

    /// Takes frames back and says how many.
    fn withdraw(&mut self, owner: Whose) -> usize {
        let frames = self.waiting.len() + self.unconfirmed.len();
        self.waiting.retain(|(whose, _)| *whose != owner);
        self.unconfirmed.retain(|(whose, _)| *whose != owner);
        frames - self.waiting.len() - self.unconfirmed.len()
    }

    fn fail_overdue(&mut self) {
        let now = Instant::now();
        if self.functional.as_ref().is_some_and(|functional| functional.until <= now)
            && let Some(done) = self.end_functional()
        {
            drop(done.send(Err(self.not_sent())));
        }
    }

    fn not_sent(&self) -> LinkError {
        LinkError::Transport { ecu: self.settings.ecu.clone(), what: SendError::FrameNotSent.to_string() }
    }

    fn settle(&mut self, outcome: Result<(), LinkError>) {
        if let Some(done) = self.sending.take() {
            // Who ordered it may have given up.
            drop(done.send(outcome));
        }
    }

    fn handle_event(&mut self, event: Event) {
        let ecu = &self.settings.ecu;
        match event {
            Event::Received(pdu) => self.deliver(Addressing::Physical, pdu),
            Event::ReceiveFailed(error) => log::debug!("{ecu}: a message was lost: {error}"),
            Event::Sent => self.settle(Ok(())),
            Event::SendFailed(error) => {
                let ecu = ecu.clone();
                if error == SendError::FrameNotSent {
                    self.withdraw_message();
                }
                self.settle(Err(LinkError::Transport { ecu, what: error.to_string() }));
            }
        }
    }

    fn deliver(&mut self, addressing: Addressing, pdu: Vec<u8>) {
        if self.deliveries.try_send((addressing, pdu)).is_err() {
            log::warn!("{}: a message nobody fetched was dropped", self.settings.ecu);
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Completes when who ordered the message has given up; without an order never. Cancel safe.
async fn given_up(done: Option<&mut Done>) {
    match done {
        Some(done) => done.closed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
