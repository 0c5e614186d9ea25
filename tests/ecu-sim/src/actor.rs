//! One task per simulated ECU: requests and orders in, answers out, the clock from the runtime.

use std::collections::BTreeMap;

use pitstop_uds::Addressing;
use pitstop_uds::server::ClientId;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::ecu::{Output, SimEcu};
use crate::fault::Fault;

/// Requests that wait for an ECU; testers have one under way each.
const REQUESTS: usize = 32;

/// Where a client's answers go.
pub type Answers = mpsc::Sender<Answer>;

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Pdu(Vec<u8>),
    /// Its connection is to be closed.
    Close,
    /// The ECU restarts; the last that this client gets, after the answers before it.
    Restarted,
}

/// An ECU's power and program, for who sends its messages or holds its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub up: bool,
    pub broadcasts: bool,
    /// Counts restarts of which no client could be told.
    pub starts: u64,
}

/// What tests and people may know about an ECU.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub id: String,
    pub state: &'static str,
    pub active_bank: usize,
    pub trial: bool,
    /// By bank; null: no valid software.
    pub versions: Vec<Option<String>>,
    /// By bank, SHA-256.
    pub digests: Vec<String>,
}

/// To talk to an ECU's task.
#[derive(Debug, Clone)]
pub struct EcuHandle {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
}

enum Order {
    Request { client: ClientId, addressing: Addressing, pdu: Vec<u8>, answers: Answers },
    Fault(Fault),
    ClearFaults,
    Power(bool),
    Report(oneshot::Sender<Report>),
}

/// The ECU's task has ended, which it never does while its handle is held.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the simulated ECU has ended")]
pub struct Ended;

impl EcuHandle {
    pub fn start(ecu: SimEcu) -> Self {
        let (orders, queue) = mpsc::channel(REQUESTS);
        let (publish, status) = watch::channel(Status { up: ecu.is_up(), broadcasts: ecu.broadcasts(), starts: 0 });
        let actor = Actor { ecu, publish, starts: 0, clients: BTreeMap::new(), origin: Instant::now() };
        tokio::spawn(actor.run(queue));
        Self { orders, status }
    }

    pub async fn request(
        &self,
        client: ClientId,
        addressing: Addressing,
        pdu: Vec<u8>,
        answers: Answers,
    ) -> Result<(), Ended> {
        self.order(Order::Request { client, addressing, pdu, answers }).await
    }

    pub async fn add_fault(&self, fault: Fault) -> Result<(), Ended> {
        self.order(Order::Fault(fault)).await
    }

    pub async fn clear_faults(&self) -> Result<(), Ended> {
        self.order(Order::ClearFaults).await
    }

    pub async fn set_power(&self, on: bool) -> Result<(), Ended> {
        self.order(Order::Power(on)).await
    }

    pub async fn report(&self) -> Result<Report, Ended> {
        let (answer, report) = oneshot::channel();
        self.order(Order::Report(answer)).await?;
        report.await.map_err(|_| Ended)
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    async fn order(&self, order: Order) -> Result<(), Ended> {
        self.orders.send(order).await.map_err(|_| Ended)
    }
}

struct Actor {
    ecu: SimEcu,
    publish: watch::Sender<Status>,
    starts: u64,
    clients: BTreeMap<ClientId, Answers>,
    origin: Instant,
}

impl Actor {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let deadline = self.ecu.poll_timeout().map(|at| self.origin + at);
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.handle(order),
                    None => return,
                },
                () = due => self.ecu.handle_timeout(self.origin.elapsed()),
            }
            self.flush();
        }
    }

    fn handle(&mut self, order: Order) {
        let now = self.origin.elapsed();
        match order {
            Order::Request { client, addressing, pdu, answers } => {
                self.clients.insert(client, answers);
                self.ecu.handle_request(now, client, addressing, &pdu);
            }
            Order::Fault(fault) => self.ecu.add_fault(fault),
            Order::ClearFaults => self.ecu.clear_faults(),
            Order::Power(on) => self.ecu.set_power(now, on),
            // Who asked may have given up.
            Order::Report(answer) => drop(answer.send(self.report())),
        }
    }

    fn flush(&mut self) {
        while let Some(output) = self.ecu.poll_output() {
            match output {
                Output::Pdu { client, pdu } => self.answer(client, Answer::Pdu(pdu)),
                Output::Close { client } => self.answer(client, Answer::Close),
                Output::Restart => self.tell_restart(),
            }
        }
        self.clients.retain(|_, answers| !answers.is_closed());
        let status = Status { up: self.ecu.is_up(), broadcasts: self.ecu.broadcasts(), starts: self.starts };
        self.publish.send_if_modified(|old| std::mem::replace(old, status) != status);
    }

    fn tell_restart(&mut self) {
        let clients = std::mem::take(&mut self.clients);
        let told = clients.values().filter(|answers| answers.try_send(Answer::Restarted).is_ok()).count();
        self.starts += u64::from(told == 0);
    }

    fn answer(&mut self, client: ClientId, answer: Answer) {
        // A client that has gone, or does not fetch its answers, gets none.
        if let Some(answers) = self.clients.get(&client) {
            let _ = answers.try_send(answer);
        }
    }

    fn report(&self) -> Report {
        let content = self.ecu.content();
        let flash = content.flash();
        let version = |bank| flash.identity(bank).filter(|_| flash.is_bootable(bank));
        Report {
            id: content.spec().id.to_string(),
            state: self.ecu.state(),
            active_bank: content.running(),
            trial: flash.boot().trial.is_some(),
            versions: (0..flash.bank_count()).map(|bank| version(bank).map(|i| i.version.to_string())).collect(),
            digests: flash.digests(),
        }
    }
}
