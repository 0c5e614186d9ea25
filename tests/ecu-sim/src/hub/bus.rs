//! One bus: frames wait at their senders, the lowest identifier wins, and a frame is delivered when its last bit is over.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use pitstop_can::CanFrame;
use pitstop_can::hub::HubMessage;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bits;
use super::timer::Timer;
use crate::vehicle::Bus;

/// Messages that wait for a participant. One that lets them pile up this high is dropped from the bus.
const BACKLOG: usize = 8192;

/// Frames of one participant that wait to be sent; a longer queue means that it ignores confirmations.
const MAX_WAITING: usize = 1024;

/// To join a bus.
#[derive(Debug, Clone)]
pub(super) struct BusHandle {
    pub(super) fd: bool,
    commands: mpsc::UnboundedSender<Command>,
}

/// A participant's number on its bus.
type Node = u64;

enum Command {
    Join { messages: mpsc::Sender<HubMessage>, node: tokio::sync::oneshot::Sender<Node> },
    Send { node: Node, frame: CanFrame, at: Instant },
    Leave { node: Node },
}

/// A joined participant; leaves when dropped.
pub(super) struct Participant {
    node: Node,
    commands: mpsc::UnboundedSender<Command>,
    messages: Option<mpsc::Receiver<HubMessage>>,
}

impl BusHandle {
    /// `None`: the bus has ended.
    pub(super) async fn join(&self) -> Option<Participant> {
        let (messages, receiver) = mpsc::channel(BACKLOG);
        let (node, number) = tokio::sync::oneshot::channel();
        self.commands.send(Command::Join { messages, node }).ok()?;
        let node = number.await.ok()?;
        Some(Participant { node, commands: self.commands.clone(), messages: Some(receiver) })
    }
}

impl Participant {
    /// Queues a frame; its confirmation comes among the messages. The queue's length is the bus's to limit.
    pub(super) fn send(&self, frame: CanFrame) {
        // A bus that has ended also ends the messages.
        let _ = self.commands.send(Command::Send { node: self.node, frame, at: Instant::now() });
    }

    /// What comes from the bus: frames of others and confirmations of own ones. Given out once.
    pub(super) fn take_messages(&mut self) -> Option<mpsc::Receiver<HubMessage>> {
        self.messages.take()
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Leave { node: self.node });
    }
}

pub(super) fn start(bus: Bus, speed: f64) -> io::Result<BusHandle> {
    let (commands, orders) = mpsc::unbounded_channel();
    let fd = bus.data_bitrate.is_some();
    let task = Task {
        bus,
        speed,
        nodes: BTreeMap::new(),
        next: 0,
        free_at: Instant::now(),
        sending: None,
        timer: Timer::new()?,
    };
    tokio::spawn(task.run(orders));
    Ok(BusHandle { fd, commands })
}

struct Task {
    bus: Bus,
    speed: f64,
    nodes: BTreeMap<Node, NodeState>,
    next: Node,
    /// When the last frame's last bit was over.
    free_at: Instant,
    sending: Option<Sending>,
    timer: Timer,
}

struct NodeState {
    messages: mpsc::Sender<HubMessage>,
    waiting: VecDeque<(CanFrame, Instant)>,
}

struct Sending {
    node: Node,
    frame: CanFrame,
    ends: Instant,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.arbitrate();
            let ends = self.sending.as_ref().map(|sending| sending.ends);
            let timer = &self.timer;
            let over = async {
                match ends {
                    Some(at) => timer.wait_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.handle(order),
                    None => return,
                },
                () = over => self.deliver(),
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join { messages, node } => {
                self.next += 1;
                self.nodes.insert(self.next, NodeState { messages, waiting: VecDeque::new() });
                // One that has given up meanwhile leaves by its dropped channel.
                let _ = node.send(self.next);
            }
            Command::Send { node, frame, at } => {
                let Some(state) = self.nodes.get_mut(&node) else { return };
                state.waiting.push_back((frame, at));
                if state.waiting.len() > MAX_WAITING {
                    log::warn!("{}: a participant floods the bus and is dropped", self.bus.name);
                    self.nodes.remove(&node);
                }
            }
            Command::Leave { node } => drop(self.nodes.remove(&node)),
        }
    }

    /// Starts the next frame. The clock of the bus goes by bit times, so that a late wake-up of ours costs no bus time.
    fn arbitrate(&mut self) {
        if self.sending.is_some() {
            return;
        }
        let heads = || self.nodes.iter().filter_map(|(&node, state)| Some((node, state.waiting.front()?)));
        let Some(starts) = heads().map(|(_, &(_, at))| at.max(self.free_at)).min() else { return };
        let ready = heads().filter(|(_, (_, at))| *at <= starts);
        let winner = ready.min_by_key(|(node, (frame, _))| (frame.id().arbitration(), *node)).map(|(node, _)| node);
        let state = winner.and_then(|node| Some((node, self.nodes.get_mut(&node)?)));
        let Some((node, (frame, _))) = state.and_then(|(node, state)| Some((node, state.waiting.pop_front()?))) else {
            return;
        };
        let length = bits::duration(&frame, self.bus.bitrate, self.bus.data_bitrate).div_f64(self.speed);
        self.sending = Some(Sending { node, frame, ends: starts + length });
    }

    fn deliver(&mut self) {
        let Some(Sending { node: sender, frame, ends }) = self.sending.take() else { return };
        self.free_at = ends;
        let name = &self.bus.name;
        self.nodes.retain(|&node, state| {
            let message = if node == sender { HubMessage::Confirmed } else { HubMessage::Received(frame) };
            match state.messages.try_send(message) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    log::warn!("{name}: a participant does not read and is dropped");
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pitstop_can::CanId;

    use super::*;

    fn bus(speed: f64) -> BusHandle {
        start(Bus { name: "can0".parse().unwrap(), bitrate: 500_000, data_bitrate: None }, speed).unwrap()
    }

    fn frame(id: u16) -> CanFrame {
        CanFrame::classic(CanId::Standard(id), &[id as u8; 8]).unwrap()
    }

    #[tokio::test]
    async fn the_lowest_identifier_wins_and_senders_keep_their_order() {
        let bus = bus(1.0);
        let (a, b) = (bus.join().await.unwrap(), bus.join().await.unwrap());
        let mut listener = bus.join().await.unwrap();
        let mut heard = listener.take_messages().unwrap();
        // The first frame is on the bus when the others come.
        a.send(frame(0x700));
        a.send(frame(0x300));
        a.send(frame(0x100));
        b.send(frame(0x200));
        b.send(frame(0x50));
        for id in [0x700, 0x200, 0x50, 0x300, 0x100] {
            assert_eq!(heard.recv().await, Some(HubMessage::Received(frame(id))));
        }
    }

    #[tokio::test]
    async fn frames_take_their_bit_time() {
        let bus = bus(1.0);
        let mut sender = bus.join().await.unwrap();
        let mut confirmed = sender.take_messages().unwrap();
        let start = Instant::now();
        for _ in 0..200 {
            sender.send(frame(0x123));
        }
        for _ in 0..200 {
            assert_eq!(confirmed.recv().await, Some(HubMessage::Confirmed));
        }
        let expected = Duration::from_micros(228).saturating_mul(200);
        assert!(start.elapsed() >= expected, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn who_floods_the_bus_is_dropped() {
        let bus = bus(0.01);
        let mut sender = bus.join().await.unwrap();
        let mut messages = sender.take_messages().unwrap();
        for _ in 0..MAX_WAITING + 2 {
            sender.send(frame(0x123));
        }
        assert_eq!(messages.recv().await, None);
    }
}
