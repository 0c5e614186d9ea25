use std::str::FromStr;

use pitstop_uds::{Nrc, ServiceId};

/// Something an ECU does wrong until it has done it often enough, or until it is told to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `reject-check[:COUNT]`: memory that differs from what the ECU ran when the fault was set fails COUNT checks (every one without).
    RejectCheck { left: Option<u32> },
    /// `nrc:SERVICE:CODE[:COUNT]`: answers the service with the code, COUNT times (always without).
    Nrc { service: ServiceId, nrc: Nrc, left: Option<u32> },
    /// `hang[:COUNT]`: does not answer, COUNT requests long.
    Hang { left: Option<u32> },
    /// `drop:SERVICE`: closes the connection (DoIP) or stays silent (CAN) at the next such request, once.
    Drop { service: ServiceId },
    /// `reset:SERVICE:N`: restarts at the Nth such request instead of serving it, once.
    Reset { service: ServiceId, left: u32 },
}

/// Why a text is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of reject-check[:COUNT], nrc:SERVICE:CODE[:COUNT], hang[:COUNT], drop:SERVICE, reset:SERVICE:N (services and codes in hexadecimal)"
)]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        parse(text).ok_or_else(|| FaultError(text.into()))
    }
}

fn parse(text: &str) -> Option<Fault> {
    let words: Vec<_> = text.split(':').collect();
    let service = |word: &str| u8::from_str_radix(word, 16).ok().map(ServiceId::from);
    Some(match words.as_slice() {
        ["reject-check"] => Fault::RejectCheck { left: None },
        ["reject-check", count] => Fault::RejectCheck { left: Some(count.parse().ok()?) },
        ["nrc", of, code] => Fault::Nrc { service: service(of)?, nrc: hex(code)?.into(), left: None },
        ["nrc", of, code, count] => {
            Fault::Nrc { service: service(of)?, nrc: hex(code)?.into(), left: Some(count.parse().ok()?) }
        }
        ["hang"] => Fault::Hang { left: None },
        ["hang", count] => Fault::Hang { left: Some(count.parse().ok()?) },
        ["drop", of] => Fault::Drop { service: service(of)? },
        ["reset", of, count] => Fault::Reset { service: service(of)?, left: count.parse().ok()? },
        _ => return None,
    })
}

fn hex(text: &str) -> Option<u8> {
    u8::from_str_radix(text, 16).ok()
}

/// What a fault makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Answer(Nrc),
    Silence,
    Close,
    Restart,
}

/// The faults of one ECU.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a request and says what goes wrong with it, if anything.
    pub fn on_request(&mut self, service: ServiceId) -> Option<Effect> {
        let effect = self.0.iter_mut().find_map(|fault| fault.on_request(service));
        self.0.retain(|fault| !fault.is_spent());
        effect
    }
}

impl Fault {
    fn on_request(&mut self, asked: ServiceId) -> Option<Effect> {
        match self {
            Self::Nrc { service, nrc, left } if *service == asked => {
                count(left);
                Some(Effect::Answer(*nrc))
            }
            Self::Hang { left } => {
                count(left);
                Some(Effect::Silence)
            }
            Self::Drop { service } if *service == asked => {
                *self = Self::Hang { left: Some(0) };
                Some(Effect::Close)
            }
            Self::Reset { service, left } if *service == asked => {
                *left = left.saturating_sub(1);
                (*left == 0).then_some(Effect::Restart)
            }
            _ => None,
        }
    }

    fn is_spent(&self) -> bool {
        match self {
            Self::RejectCheck { .. } | Self::Drop { .. } => false,
            Self::Nrc { left, .. } | Self::Hang { left } => *left == Some(0),
            Self::Reset { left, .. } => *left == 0,
        }
    }
}

fn count(left: &mut Option<u32>) {
    *left = left.map(|left| left.saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_faults_and_others_are_refused() {
        let nrc = Fault::Nrc { service: ServiceId::TransferData, nrc: Nrc::GeneralProgrammingFailure, left: Some(3) };
        assert_eq!("nrc:36:72:3".parse(), Ok(nrc));
        assert_eq!("hang".parse(), Ok(Fault::Hang { left: None }));
        for wrong in ["", "nrc", "nrc:36", "nrc:xx:72", "reset:36", "explode"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn faults_end_after_their_count() {
        let mut faults = Faults::default();
        faults.add("nrc:36:72:2".parse().unwrap());
        faults.add("drop:37".parse().unwrap());
        faults.add("reset:31:2".parse().unwrap());
        let transfer = Some(Effect::Answer(Nrc::GeneralProgrammingFailure));
        assert_eq!(faults.on_request(ServiceId::TransferData), transfer);
        assert_eq!(faults.on_request(ServiceId::RequestTransferExit), Some(Effect::Close));
        assert_eq!(faults.on_request(ServiceId::RequestTransferExit), None);
        assert_eq!(faults.on_request(ServiceId::TransferData), transfer);
        assert_eq!(faults.on_request(ServiceId::TransferData), None);
        assert_eq!(faults.on_request(ServiceId::RoutineControl), None);
        assert_eq!(faults.on_request(ServiceId::RoutineControl), Some(Effect::Restart));
        assert_eq!(faults.on_request(ServiceId::RoutineControl), None);
    }
}
