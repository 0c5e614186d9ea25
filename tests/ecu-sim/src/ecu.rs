use std::collections::VecDeque;
use std::time::Duration;

use pitstop_uds::server::{ClientId, Server, ServerEvent, ServerSettings, ServerTransmit};
use pitstop_uds::{Addressing, Monotonic, Response, ServiceId};

use crate::content::{Content, Mode};
use crate::fault::{Effect, Fault, Faults};

/// What an ECU does to its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Pdu {
        client: ClientId,
        pdu: Vec<u8>,
    },
    /// Close this client's connection, where it has one.
    Close {
        client: ClientId,
    },
    /// The ECU restarts: all its connections are gone, and it is silent until [`SimEcu::is_up`] again.
    Restart,
}

/// One simulated ECU: its server, its power, its faults. No I/O but the flash files; the time is an argument.
#[derive(Debug)]
pub struct SimEcu {
    server: Server<Content>,
    power: Power,
    faults: Faults,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Off,
    Booting { until: Monotonic },
    On,
}

impl SimEcu {
    /// An ECU that is up.
    pub fn new(content: Content) -> Self {
        let settings = ServerSettings { max_response: content.spec().max_block as usize, ..ServerSettings::default() };
        let server = Server::new(content, settings);
        Self { server, power: Power::On, faults: Faults::default(), outputs: VecDeque::new() }
    }

    pub fn content(&self) -> &Content {
        self.server.content()
    }

    pub fn is_up(&self) -> bool {
        self.power == Power::On
    }

    /// Whether broadcast messages are sent now.
    pub fn broadcasts(&self) -> bool {
        self.is_up() && self.content().broadcasts()
    }

    /// `application`, `loader`, `booting` or `off`.
    pub fn state(&self) -> &'static str {
        match (self.power, self.content().mode()) {
            (Power::Off, _) => "off",
            (Power::Booting { .. }, _) => "booting",
            (Power::On, Mode::Application) => "application",
            (Power::On, Mode::Loader) => "loader",
        }
    }

    pub fn add_fault(&mut self, fault: Fault) {
        if let Fault::RejectCheck { left } = fault {
            self.server.content_mut().reject_checks(left);
        } else {
            self.faults.add(fault);
        }
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
        self.server.content_mut().accept_checks();
    }

    /// Takes the power away or gives it back.
    pub fn set_power(&mut self, now: Monotonic, on: bool) {
        match (self.power, on) {
            (Power::Off, true) => self.boot(now),
            (Power::Off, false) | (Power::On | Power::Booting { .. }, true) => {}
            (_, false) => {
                self.restart_server();
                self.power = Power::Off;
                self.outputs.push_back(Output::Restart);
            }
        }
    }

    /// A UDS request. An ECU that is not up hears nothing.
    pub fn handle_request(&mut self, now: Monotonic, client: ClientId, addressing: Addressing, pdu: &[u8]) {
        self.handle_timeout(now);
        if !self.is_up() {
            return;
        }
        let service = pdu.first().copied().map_or(ServiceId::Other(0), ServiceId::from);
        match self.faults.on_request(service) {
            None => self.server.handle_input(now, client, addressing, pdu),
            Some(Effect::Silence) => {}
            Some(Effect::Close) => self.outputs.push_back(Output::Close { client }),
            Some(Effect::Restart) => self.boot(now),
            Some(Effect::Answer(nrc)) => {
                let answer = Response::negative(service, nrc).encode();
                self.outputs.extend(answer.ok().map(|pdu| Output::Pdu { client, pdu }));
            }
        }
        self.settle(now);
    }

    pub fn handle_timeout(&mut self, now: Monotonic) {
        self.server.content_mut().set_now(now);
        if let Power::Booting { until } = self.power
            && until <= now
        {
            self.server.content_mut().start();
            self.power = Power::On;
        }
        if let Some(result) = self.server.content_mut().take_finished(now) {
            self.server.complete(now, result);
        }
        if self.is_up() {
            self.server.handle_timeout(now);
        }
        self.settle(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.power {
            Power::Off => None,
            Power::Booting { until } => Some(until),
            Power::On => self.content().job_due().into_iter().chain(self.server.poll_timeout()).min(),
        }
    }

    /// Answers first, then what they announce.
    fn settle(&mut self, now: Monotonic) {
        while let Some(ServerTransmit { client, pdu }) = self.server.poll_transmit() {
            self.outputs.push_back(Output::Pdu { client, pdu });
        }
        let mut restarts = false;
        while let Some(event) = self.server.poll_event() {
            restarts |= matches!(event, ServerEvent::Reset { .. });
        }
        if restarts || self.server.content_mut().take_restart() {
            self.boot(now);
        }
    }

    fn boot(&mut self, now: Monotonic) {
        self.restart_server();
        let boot_time = self.content().boot_time().max(Duration::from_millis(1));
        self.power = Power::Booting { until: now + boot_time };
        self.outputs.push_back(Output::Restart);
    }

    fn restart_server(&mut self) {
        self.server.restart();
    }
}

#[cfg(test)]
mod tests;
