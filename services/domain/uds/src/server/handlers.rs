//! One function per service; the general checks are done.

use super::{Act, Asked, ClientId, EcuContent, PendingKind, Reply, Rule, Server, ServerEvent};
use crate::{
    Did, Monotonic, Nrc, Request, ResetType, Response, RoutineAction, RoutineId, ServiceId, SessionTiming, SessionType,
};

const WRONG_LENGTH: Nrc = Nrc::IncorrectMessageLengthOrInvalidFormat;

impl<C: EcuContent> Server<C> {
    pub(super) fn dispatch(&mut self, now: Monotonic, asked: Asked, rule: Rule, pdu: &[u8]) -> Result<Act, Nrc> {
        if asked.service.has_sub_function() {
            let &[_, sub_function, ref rest @ ..] = pdu else { return Err(WRONG_LENGTH) };
            return self.dispatch_sub_function(now, asked, rule, sub_function & 0x7F, rest, pdu);
        }
        match asked.service {
            // Figure 31 puts the security check of a download behind its address.
            ServiceId::RequestDownload => return self.request_download(rule, pdu),
            _ => self.check_protection(rule.protection)?,
        }
        match asked.service {
            ServiceId::ReadDataByIdentifier => self.read(pdu),
            ServiceId::WriteDataByIdentifier => self.write(pdu),
            ServiceId::ClearDiagnosticInformation => self.clear_dtcs(pdu),
            ServiceId::TransferData => self.transfer_data(pdu),
            ServiceId::RequestTransferExit => self.request_transfer_exit(pdu),
            _ => Err(Nrc::ServiceNotSupported),
        }
    }

    fn dispatch_sub_function(
        &mut self,
        now: Monotonic,
        asked: Asked,
        rule: Rule,
        sub_function: u8,
        rest: &[u8],
        pdu: &[u8],
    ) -> Result<Act, Nrc> {
        if asked.service != ServiceId::RoutineControl {
            self.check_protection(rule.protection)?;
        }
        match asked.service {
            ServiceId::DiagnosticSessionControl => self.session_control(asked, sub_function.into(), rest),
            ServiceId::EcuReset => self.reset(asked, sub_function.into(), rest),
            ServiceId::ReadDtcInformation => self.read_dtcs(sub_function, rest),
            ServiceId::SecurityAccess => self.security_access(now, sub_function, rest),
            ServiceId::CommunicationControl => self.communication_control(sub_function, rest),
            ServiceId::Authentication => self.authentication(now, pdu),
            ServiceId::RoutineControl => self.routine(rule, sub_function.into(), rest),
            ServiceId::TesterPresent => tester_present(sub_function, rest),
            ServiceId::ControlDtcSetting => self.dtc_setting(sub_function),
            _ => Err(Nrc::ServiceNotSupported),
        }
    }

    fn session_control(&mut self, asked: Asked, session: SessionType, rest: &[u8]) -> Result<Act, Nrc> {
        self.content.may_enter(self.session, session)?;
        no_more(rest)?;
        self.enter(session);
        self.events.push_back(ServerEvent::Session { session, client: Some(asked.client) });
        let SessionTiming { p2, p2_star } = self.settings.timing;
        Ok(Act::Answer(Response::DiagnosticSessionControl { session, timing: Some(SessionTiming { p2, p2_star }) }))
    }

    fn reset(&mut self, asked: Asked, reset: ResetType, rest: &[u8]) -> Result<Act, Nrc> {
        self.content.may_reset(reset)?;
        no_more(rest)?;
        match self.content.reset(reset) {
            Reply::Done(power_down_time) => {
                Ok(Act::Answer(self.reset_now(asked.client, !asked.suppressed, reset, power_down_time)))
            }
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => Ok(Act::Later(PendingKind::Reset(reset))),
        }
    }

    pub(super) fn reset_now(
        &mut self,
        client: ClientId,
        answered: bool,
        reset: ResetType,
        power_down_time: Option<u8>,
    ) -> Response {
        self.lose_transfer();
        self.restart();
        self.events.push_back(ServerEvent::Reset { reset, client, answered });
        Response::EcuReset { reset, power_down_time }
    }

    fn read(&mut self, pdu: &[u8]) -> Result<Act, Nrc> {
        let Ok(Request::ReadDataByIdentifier { dids }) = Request::decode(pdu) else { return Err(WRONG_LENGTH) };
        let mut records = Vec::new();
        for did in dids {
            match self.read_one(did) {
                Ok(data) => {
                    records.extend(did.0.to_be_bytes());
                    records.extend(data);
                }
                // Unknown ones are left out as long as one is known.
                Err(Nrc::RequestOutOfRange) => continue,
                Err(nrc) => return Err(nrc),
            }
            if records.len() >= self.settings.max_response {
                return Err(Nrc::ResponseTooLong);
            }
        }
        match records.is_empty() {
            true => Err(Nrc::RequestOutOfRange),
            false => Ok(Act::Answer(Response::ReadDataByIdentifier { records })),
        }
    }

    fn read_one(&mut self, did: Did) -> Result<Vec<u8>, Nrc> {
        if did == Did::ACTIVE_SESSION {
            return Ok(vec![self.session.code()]);
        }
        let rule = self.in_session(self.content.read_rule(did))?;
        self.check_protection(rule.protection)?;
        self.content.read(did)
    }

    fn write(&mut self, pdu: &[u8]) -> Result<Act, Nrc> {
        let &[_, high, low, ref data @ ..] = pdu else { return Err(WRONG_LENGTH) };
        if data.is_empty() {
            return Err(WRONG_LENGTH);
        }
        let did = Did(u16::from_be_bytes([high, low]));
        let rule = self.in_session(self.content.write_rule(did))?;
        self.check_protection(rule.protection)?;
        let response = Response::WriteDataByIdentifier { did };
        match self.content.write(did, data) {
            Reply::Done(()) => Ok(Act::Answer(response)),
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => Ok(Act::Later(PendingKind::Answer(response))),
        }
    }

    fn routine(&mut self, rule: Rule, action: RoutineAction, rest: &[u8]) -> Result<Act, Nrc> {
        let &[high, low, ref option @ ..] = rest else { return Err(WRONG_LENGTH) };
        let routine = RoutineId(u16::from_be_bytes([high, low]));
        let own = self.in_session(self.content.routine_rule(routine))?;
        self.check_protection(rule.protection)?;
        self.check_protection(own.protection)?;
        if matches!(action, RoutineAction::Other(_)) {
            return Err(Nrc::SubFunctionNotSupported);
        }
        match self.content.routine(action, routine, option) {
            Reply::Done(status) => Ok(Act::Answer(Response::RoutineControl { action, routine, status })),
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => {
                let response = Response::RoutineControl { action, routine, status: Vec::new() };
                Ok(Act::Later(PendingKind::Answer(response)))
            }
        }
    }

    fn authentication(&mut self, now: Monotonic, pdu: &[u8]) -> Result<Act, Nrc> {
        let request = Request::decode(pdu).map_err(|_| WRONG_LENGTH)?;
        match self.content.authenticate_client(now, self.asking, &request) {
            Reply::Done(answer) => {
                self.settle_authentication(self.asking, &answer);
                let service = ServiceId::Authentication.code();
                Ok(Act::Answer(Response::Other { service, data: answer.answer }))
            }
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => Ok(Act::Later(PendingKind::Authentication)),
        }
    }

    fn read_dtcs(&mut self, report: u8, parameters: &[u8]) -> Result<Act, Nrc> {
        let data = self.content.read_dtcs(report, parameters)?;
        Ok(Act::Answer(Response::ReadDtcInformation { report, data }))
    }

    fn clear_dtcs(&mut self, pdu: &[u8]) -> Result<Act, Nrc> {
        let Ok(Request::ClearDiagnosticInformation { group, .. }) = Request::decode(pdu) else {
            return Err(WRONG_LENGTH);
        };
        self.content.clear_dtcs(group)?;
        Ok(Act::Answer(Response::ClearDiagnosticInformation))
    }

    fn communication_control(&mut self, control: u8, rest: &[u8]) -> Result<Act, Nrc> {
        let with_node = matches!(control, 4 | 5);
        if control > 5 {
            return Err(Nrc::SubFunctionNotSupported);
        }
        let communication_type = match rest {
            [communication_type] if !with_node => *communication_type,
            [communication_type, _, _] if with_node => *communication_type,
            _ => return Err(WRONG_LENGTH),
        };
        self.content.communication_control(control, communication_type)?;
        Ok(Act::Answer(Response::CommunicationControl { control }))
    }

    fn dtc_setting(&mut self, setting: u8) -> Result<Act, Nrc> {
        if !matches!(setting, 1 | 2) {
            return Err(Nrc::SubFunctionNotSupported);
        }
        self.content.dtc_setting(setting == 1)?;
        Ok(Act::Answer(Response::ControlDtcSetting { setting }))
    }

    /// A DID or routine that this session does not serve counts as unknown.
    fn in_session(&self, rule: Option<Rule>) -> Result<Rule, Nrc> {
        rule.filter(|rule| rule.sessions.include(self.session)).ok_or(Nrc::RequestOutOfRange)
    }
}

fn tester_present(sub_function: u8, rest: &[u8]) -> Result<Act, Nrc> {
    if sub_function != 0 {
        return Err(Nrc::SubFunctionNotSupported);
    }
    no_more(rest)?;
    Ok(Act::Answer(Response::TesterPresent))
}

fn no_more(rest: &[u8]) -> Result<(), Nrc> {
    if rest.is_empty() { Ok(()) } else { Err(WRONG_LENGTH) }
}
