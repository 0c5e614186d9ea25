use std::time::Duration;

use pitstop_uds::{
    Addressing, ClientError, ClientEvent, ClientSession, ClientTiming, Monotonic, Request, RequestRefused, Response,
    StepLimits, Transmit,
};
use tokio::time::Instant;

use crate::{DiagnosticLink, LinkError};

/// Why a request over a link has no response.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Refused(#[from] RequestRefused),
}

/// Drives a [`ClientSession`] on a [`DiagnosticLink`]: `request` in, response out.
pub struct DiagnosticClient {
    link: Box<dyn DiagnosticLink>,
    session: ClientSession,
    origin: Instant,
    pending: u32,
}

impl DiagnosticClient {
    pub fn new(link: Box<dyn DiagnosticLink>, timing: ClientTiming) -> Self {
        Self { link, session: ClientSession::new(timing), origin: Instant::now(), pending: 0 }
    }

    /// Sends a request and waits for its final response (which may be negative: [`Response::Negative`]).
    ///
    /// Waits through "response pending", repeats after "busy". On a link with a connection a request without an answer is not
    /// repeated: the caller calls [`DiagnosticClient::reopen`] first. Not cancel safe.
    pub async fn request(&mut self, request: &Request, limits: StepLimits) -> Result<Response, DiagnosticError> {
        let repeats = if self.link.has_connection() { 0 } else { limits.repeats };
        self.session.request(self.now(), request, StepLimits { repeats, ..limits })?;
        match self.run().await? {
            Some(response) => Ok(response),
            // A physical request that wants its answer never ends silently.
            None => Err(ClientError::NoAnswer { service: request.service(), times: 1 }.into()),
        }
    }

    /// Sends a request whose positive answer is not wanted (suppressed, or functional). `None`: nobody objected within P2;
    /// otherwise the last response that came.
    pub async fn notify(
        &mut self,
        request: &Request,
        addressing: Addressing,
        limits: StepLimits,
    ) -> Result<Option<Response>, DiagnosticError> {
        let pdu = request.encode_suppressing().map_err(RequestRefused::from)?;
        self.session.start(self.now(), pdu, addressing, limits)?;
        self.run().await
    }

    /// How many "response pending" the last request got.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    /// Turns tester present on or off while [`DiagnosticClient::idle`] waits.
    pub fn keep_alive(&mut self, on: bool) {
        self.session.keep_alive(on);
    }

    /// Waits `time`, keeping the session alive; messages that come meanwhile are dropped.
    pub async fn idle(&mut self, time: Duration) -> Result<(), DiagnosticError> {
        let end = Instant::now() + time;
        loop {
            self.flush().await?;
            let wake = self.deadline().map_or(end, |at| at.min(end));
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                received = self.link.receive() => self.session.handle_input(self.now(), &received?),
            }
            if Instant::now() >= end {
                return Ok(());
            }
            self.session.handle_timeout(self.now());
        }
    }

    /// Begins anew on the link, with keep-alive off and default timing kept from the configuration.
    pub async fn reopen(&mut self) -> Result<(), DiagnosticError> {
        self.session.handle_lost();
        while self.session.poll_event().is_some() {}
        self.session.keep_alive(false);
        Ok(self.link.reopen().await?)
    }

    async fn run(&mut self) -> Result<Option<Response>, DiagnosticError> {
        let mut last = None;
        self.pending = 0;
        loop {
            self.flush().await?;
            while let Some(event) = self.session.poll_event() {
                match event {
                    ClientEvent::Response(response) if self.session.is_idle() => return Ok(Some(response)),
                    ClientEvent::Response(response) => last = Some(response),
                    ClientEvent::Pending { count } => self.pending = count,
                    ClientEvent::Silent => return Ok(last),
                    ClientEvent::Failed(error) => return Err(error.into()),
                }
            }
            self.wait().await?;
        }
    }

    /// One input or one deadline.
    async fn wait(&mut self) -> Result<(), DiagnosticError> {
        let deadline = self.deadline();
        let overdue = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            received = self.link.receive() => {
                let received = self.keep_or_fail(received)?;
                self.session.handle_input(self.now(), &received);
            }
            () = overdue => self.session.handle_timeout(self.now()),
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DiagnosticError> {
        while let Some(Transmit { addressing, pdu }) = self.session.poll_transmit() {
            let limit = self.deadline();
            let send = self.link.send(addressing, &pdu);
            let sent = match limit {
                Some(at) => tokio::time::timeout_at(at, send).await,
                None => Ok(send.await),
            };
            let Ok(sent) = sent else {
                // Links have limits of their own; this one holds whatever they do. The session ends the request.
                self.session.handle_timeout(self.now());
                return Ok(());
            };
            self.keep_or_fail(sent)?;
            self.session.handle_sent(self.now());
        }
        Ok(())
    }

    /// An error of the link also ends the request in the session.
    fn keep_or_fail<T>(&mut self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        if result.is_err() {
            self.session.handle_lost();
            while self.session.poll_event().is_some() {}
        }
        result
    }

    fn deadline(&self) -> Option<Instant> {
        self.session.poll_timeout().map(|at| self.origin + at)
    }

    fn now(&self) -> Monotonic {
        self.origin.elapsed()
    }
}

#[cfg(test)]
mod tests;
