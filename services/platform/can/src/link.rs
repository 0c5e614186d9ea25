use std::time::Duration;

use async_trait::async_trait;
use pitstop_uds::Addressing;

use crate::CanError;

/// Why a diagnostic link did not carry a message.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the bus of {ecu} failed")]
    Bus {
        ecu: String,
        #[source]
        source: CanError,
    },
    #[error("the connection to {ecu} failed")]
    Io {
        ecu: String,
        #[source]
        source: std::io::Error,
    },
    /// The peer ended the connection: expected right after a positive 11, or a 10 that boots other software (ISO 14229-5).
    #[error("{ecu} closed the connection")]
    Closed { ecu: String },
    #[error("{ecu} did not take part in the transport protocol: {what}")]
    Transport { ecu: String, what: String },
    /// The DoIP entity refused: routing activation code, or diagnostic negative acknowledge code.
    #[error("the DoIP entity refused to route to {ecu}: {what}, code 0x{code:02X}")]
    Refused { ecu: String, what: &'static str, code: u8 },
    #[error("{what} of {ecu} took longer than {limit:?}")]
    Timeout { ecu: String, what: &'static str, limit: Duration },
    #[error("a message of {length} bytes is longer than {limit}, the limit of the link to {ecu}")]
    TooLong { ecu: String, length: usize, limit: usize },
}

/// A way to exchange UDS messages with one ECU, whatever lies below (ISO-TP on a CAN bus, DoIP on TCP).
#[async_trait]
pub trait DiagnosticLink: Send {
    /// Sends one UDS message. Returns when it is out: on CAN when the last frame was on the bus, on DoIP when the entity
    /// acknowledged it (8002). P2 starts then. Not cancel safe: a message given up half-way may still arrive.
    async fn send(&mut self, addressing: Addressing, pdu: &[u8]) -> Result<(), LinkError>;

    /// The next UDS message from the ECU. Cancel safe.
    async fn receive(&mut self) -> Result<Vec<u8>, LinkError>;

    /// Begins anew: drops whatever is under way and, where there is a connection, makes a new one (DoIP: connect and routing
    /// activation). To be called after [`LinkError::Closed`], after an ECU's reset, and after a lost answer on DoIP.
    async fn reopen(&mut self) -> Result<(), LinkError>;

    /// Whether an answer that came too late can be taken for the next request's (DoIP), so that a request without an answer
    /// must be followed by [`DiagnosticLink::reopen`] instead of being repeated.
    fn has_connection(&self) -> bool;
}
