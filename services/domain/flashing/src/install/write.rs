//! The write step: check what is there, erase, transfer, check again.

mod requests;

use std::collections::VecDeque;
use std::time::Duration;

use pitstop_types::EcuId;
use pitstop_uds::{AddressAndSize, Nrc, Reaction, Request, Response, ServiceId};

use super::react::{Counters, take};
use super::{Act, Failure, Gate, Outcome, Phase};
use crate::HexBytes;
use crate::plan::{Group, Piece, PlannedSegment, TransferPlan};
use crate::profile::Profile;
use requests::{block_bytes, check_act, erase_act, send, status_is};

/// One thing to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// Ask whether a segment is right already.
    PreCheck(usize),
    Gate,
    Erase(usize),
    Download {
        group: usize,
        segment: usize,
        piece: usize,
    },
    Check {
        group: usize,
        segment: usize,
    },
}

/// Where within a download.
#[derive(Debug)]
enum Transfer {
    /// 34 comes next.
    Request,
    /// The block at `done` comes next; its bytes when they were read.
    Block { block: u32, counter: u8, done: u32, data: Option<Vec<u8>>, repeated: bool },
    /// 37 comes next.
    Exit,
}

/// What follows from an outcome.
#[derive(Debug)]
pub(super) enum Written {
    More,
    Done,
    /// Reopen the link, then the same act again.
    Reopen,
    Wait(Duration),
    Lost(String),
    Restart {
        service: ServiceId,
        nrc: Nrc,
    },
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Writer {
    plan: TransferPlan,
    right: Vec<bool>,
    ops: VecDeque<Op>,
    transfer: Transfer,
    done: u64,
    conditions: u32,
    /// The gate was passed before, in an earlier start of the same job.
    permitted: bool,
}

impl Writer {
    pub(super) fn new(plan: TransferPlan, profile: &Profile, permitted: bool) -> Self {
        let right = vec![false; plan.segments.len()];
        let (ops, conditions) = (VecDeque::new(), profile.retry.conditions);
        let mut this = Self { plan, right, ops, transfer: Transfer::Request, done: 0, conditions, permitted };
        match profile.check.before {
            true => this.ops.extend((0..this.plan.segments.len()).map(Op::PreCheck)),
            false => this.ops = this.all_ops(),
        }
        this
    }

    pub(super) fn plan(&self) -> &TransferPlan {
        &self.plan
    }

    pub(super) fn is_done(&self) -> bool {
        self.ops.is_empty()
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        let in_block = match &self.transfer {
            Transfer::Block { done, .. } => u64::from(*done),
            Transfer::Request | Transfer::Exit => 0,
        };
        (self.done + in_block, self.plan.bytes())
    }

    pub(super) fn phase(&self) -> Phase {
        match self.ops.front() {
            Some(Op::Erase(_)) => Phase::Erasing,
            Some(Op::Download { .. }) => Phase::Transferring,
            Some(Op::Check { .. }) => Phase::Checking,
            Some(Op::PreCheck(_) | Op::Gate) => Phase::Preparing,
            None => Phase::Verifying,
        }
    }

    pub(super) fn handle_permit(&mut self) {
        if self.ops.front() == Some(&Op::Gate) {
            self.ops.pop_front();
        }
    }

    pub(super) fn handle_payload(&mut self, bytes: Vec<u8>) {
        if let Transfer::Block { data, .. } = &mut self.transfer {
            *data = Some(bytes);
        }
    }

    /// All groups erased, the last first, so that the seal goes before what it vouches for; then each written and checked.
    fn all_ops(&self) -> VecDeque<Op> {
        let gate = if self.permitted { None } else { Some(Op::Gate) };
        let mut ops: VecDeque<Op> = gate.into_iter().collect();
        ops.extend((0..self.plan.groups.len()).rev().map(Op::Erase));
        for (number, group) in self.plan.groups.iter().enumerate() {
            ops.extend(self.write_ops(number, group));
        }
        ops
    }

    fn write_ops(&self, number: usize, group: &Group) -> Vec<Op> {
        let mut ops = Vec::new();
        for &segment in &group.segments {
            let pieces = self.plan.segments.get(segment).map_or(0, |s| s.pieces.len());
            ops.extend((0..pieces).map(|piece| Op::Download { group: number, segment, piece }));
            ops.push(Op::Check { group: number, segment });
        }
        ops
    }

    fn segment(&self, number: usize) -> Option<&PlannedSegment> {
        self.plan.segments.get(number)
    }

    fn piece(&self, segment: usize, piece: usize) -> Option<(&PlannedSegment, Piece)> {
        let segment = self.segment(segment)?;
        Some((segment, *segment.pieces.get(piece)?))
    }

    /// What comes next; the caller asks only while there is something.
    pub(super) fn act(&self, profile: &Profile) -> Act {
        let act = match self.ops.front() {
            Some(Op::Gate) => Some(Act::Permit(Gate::Erase)),
            Some(Op::PreCheck(segment) | Op::Check { segment, .. }) => {
                self.segment(*segment).map(|s| check_act(profile, s))
            }
            Some(Op::Erase(group)) => self.plan.groups.get(*group).map(|g| erase_act(profile, g)),
            Some(Op::Download { segment, piece, .. }) => {
                self.piece(*segment, *piece).map(|(segment, piece)| self.transfer_act(profile, segment, piece))
            }
            None => None,
        };
        act.unwrap_or_else(|| send(Request::TesterPresent, profile.check.limit))
    }

    fn transfer_act(&self, profile: &Profile, segment: &PlannedSegment, piece: Piece) -> Act {
        let (address_bytes, size_bytes) = (profile.transfer.address_bytes, profile.transfer.size_bytes);
        match &self.transfer {
            Transfer::Request => {
                let (address, size) = (piece.address.into(), piece.memory_length.into());
                let memory = AddressAndSize { address, size, address_bytes, size_bytes };
                send(Request::RequestDownload { data_format: segment.data_format, memory }, profile.erase.limit)
            }
            Transfer::Block { block, done, data: None, .. } => {
                let length = (*block).min(piece.length.saturating_sub(*done));
                Act::Payload { offset: piece.offset + u64::from(*done), length }
            }
            Transfer::Block { counter, data: Some(data), .. } => {
                send(Request::TransferData { counter: *counter, data: data.clone() }, profile.check.limit)
            }
            Transfer::Exit => send(Request::RequestTransferExit { parameters: Vec::new() }, profile.check.limit),
        }
    }

    pub(super) fn handle_outcome(
        &mut self,
        profile: &Profile,
        ecu: &EcuId,
        counters: &mut Counters,
        outcome: Outcome,
    ) -> Written {
        let response = match outcome {
            Outcome::Response(response) => response,
            Outcome::NoAnswer(error) => return self.unanswered(counters, error.to_string()),
            Outcome::LinkLost(what) => return self.unanswered(counters, what),
            Outcome::Silent => return Written::More,
        };
        if let Response::Negative { service, nrc } = response
            && !matches!(self.ops.front(), Some(Op::PreCheck(_)))
        {
            return self.refused(profile, ecu, counters, service, nrc);
        }
        match self.ops.front().copied() {
            Some(Op::PreCheck(segment)) => self.pre_checked(profile, segment, &response),
            Some(Op::Erase(_) | Op::Check { .. }) => self.routine_done(profile, ecu, counters, &response),
            Some(Op::Download { segment, piece, .. }) => {
                self.transferred(profile, ecu, counters, (segment, piece), &response)
            }
            Some(Op::Gate) => Written::More,
            None => Written::Done,
        }
    }

    /// A transfer's block is sent again with the same counter: the server answers a repeat without writing it again. Everything
    /// else is an act of its own whose effect is unknown, so the job starts again and asks the ECU what is there.
    fn unanswered(&mut self, counters: &mut Counters, what: String) -> Written {
        match &mut self.transfer {
            Transfer::Block { repeated, .. } if take(&mut counters.silence) => {
                *repeated = true;
                Written::Reopen
            }
            _ => Written::Lost(what),
        }
    }

    fn pre_checked(&mut self, profile: &Profile, segment: usize, response: &Response) -> Written {
        if let Response::Negative { service, nrc } = response
            && matches!(nrc.reaction(), Reaction::RestartPhase | Reaction::Unlock)
        {
            return Written::Restart { service: *service, nrc: *nrc };
        }
        if let Some(right) = self.right.get_mut(segment) {
            *right = status_is(response, &profile.check.status);
        }
        self.ops.pop_front();
        if self.ops.is_empty() {
            self.plan = self.plan.without(&self.right, profile);
            if !self.plan.is_nothing() {
                self.ops = self.all_ops();
            }
        }
        self.more()
    }

    fn routine_done(
        &mut self,
        profile: &Profile,
        ecu: &EcuId,
        counters: &mut Counters,
        response: &Response,
    ) -> Written {
        let wanted = match self.ops.front() {
            Some(Op::Erase(_)) => &profile.erase.status,
            _ => &profile.check.status,
        };
        if status_is(response, wanted) {
            self.ops.pop_front();
            return self.more();
        }
        let status = match response {
            Response::RoutineControl { status, .. } => HexBytes::new(status.clone()).to_string(),
            other => format!("{other:?}"),
        };
        let failure = match self.ops.front() {
            Some(Op::Check { segment, .. }) => {
                Failure::CheckFailed { ecu: ecu.clone(), address: self.address_of(*segment), status }
            }
            _ => self.flash_failed(ecu, format!("the erase answered {status}")),
        };
        self.rewrite_or(counters, failure)
    }

    fn transferred(
        &mut self,
        profile: &Profile,
        ecu: &EcuId,
        counters: &mut Counters,
        at: (usize, usize),
        response: &Response,
    ) -> Written {
        let Some((_, piece)) = self.piece(at.0, at.1) else { return Written::Done };
        match (&mut self.transfer, response) {
            (Transfer::Request, Response::RequestDownload { max_block }) => match block_bytes(profile, *max_block) {
                Some(block) => {
                    self.transfer = Transfer::Block { block, counter: 1, done: 0, data: None, repeated: false };
                    Written::More
                }
                None => {
                    Written::Failed(self.flash_failed(ecu, format!("its block length {} carries no data", max_block.0)))
                }
            },
            (Transfer::Block { .. }, Response::TransferData { .. }) => {
                counters.silence = profile.retry.silence;
                self.conditions = profile.retry.conditions;
                self.block_taken(piece.length);
                Written::More
            }
            (Transfer::Exit, _) => {
                self.done += u64::from(piece.length);
                self.transfer = Transfer::Request;
                self.ops.pop_front();
                self.more()
            }
            (_, other) => {
                let failure = self.flash_failed(ecu, format!("it answered {other:?}"));
                self.rewrite_or(counters, failure)
            }
        }
    }

    fn block_taken(&mut self, length: u32) {
        let Transfer::Block { counter, done, data, repeated, .. } = &mut self.transfer else { return };
        *done += data.take().map_or(0, |bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        // ISO 14229-1, TransferData: the counter begins at 1 and after FF goes on with 00.
        *counter = counter.wrapping_add(1);
        *repeated = false;
        if *done >= length {
            self.transfer = Transfer::Exit;
        }
    }

    fn refused(
        &mut self,
        profile: &Profile,
        ecu: &EcuId,
        counters: &mut Counters,
        service: ServiceId,
        nrc: Nrc,
    ) -> Written {
        let opening = matches!(self.transfer, Transfer::Request) && service == ServiceId::RequestDownload;
        match nrc.reaction() {
            // 22 to a 34: a transfer is open still (ISO 14229-1, RequestDownload); only a new session ends it.
            Reaction::ConditionMustChange if opening => Written::Restart { service, nrc },
            Reaction::ConditionMustChange if take(&mut self.conditions) => {
                Written::Wait(profile.retry.conditions_pause)
            }
            Reaction::Unlock | Reaction::RestartPhase => Written::Restart { service, nrc },
            Reaction::ResyncBlock if self.is_repeated() => {
                // The answer was lost, not the block: the server counts from the next one.
                if let Some(Op::Download { segment, piece, .. }) = self.ops.front().copied()
                    && let Some((_, piece)) = self.piece(segment, piece)
                {
                    self.block_taken(piece.length);
                }
                Written::More
            }
            Reaction::ResyncBlock | Reaction::RestartSegment => {
                let failure = self.flash_failed(ecu, format!("{service} was refused: {nrc}"));
                // 70 to a 34 and 73 may leave the transfer open; the erase and 34 that follow are then refused with 22 or 24 and start anew.
                self.rewrite_or(counters, failure)
            }
            _ => Written::Failed(Failure::Refused {
                ecu: ecu.clone(),
                step: self.phase().as_str().to_owned(),
                service,
                nrc,
            }),
        }
    }

    fn is_repeated(&self) -> bool {
        matches!(self.transfer, Transfer::Block { repeated: true, .. })
    }

    /// Erases and writes the current group again, while the bound allows.
    fn rewrite_or(&mut self, counters: &mut Counters, failure: Failure) -> Written {
        let group = match self.ops.front() {
            Some(Op::Download { group, .. } | Op::Check { group, .. } | Op::Erase(group)) => *group,
            _ => return Written::Failed(failure),
        };
        if !take(&mut counters.rewrites) {
            return Written::Failed(failure);
        }
        let Some(ops) = self.plan.groups.get(group).map(|g| self.write_ops(group, g)) else {
            return Written::Failed(failure);
        };
        let erasing = matches!(self.ops.front(), Some(Op::Erase(_)));
        self.transfer = Transfer::Request;
        if !erasing {
            self.ops
                .retain(|op| !matches!(op, Op::Download { group: g, .. } | Op::Check { group: g, .. } if *g == group));
            for op in ops.into_iter().rev() {
                self.ops.push_front(op);
            }
            self.ops.push_front(Op::Erase(group));
            self.done = self.sent_before(group);
        }
        Written::More
    }

    fn sent_before(&self, group: usize) -> u64 {
        let before = self.plan.groups.iter().take(group).flat_map(|g| &g.segments);
        before.filter_map(|s| self.segment(*s)).flat_map(|s| &s.pieces).map(|p| u64::from(p.length)).sum()
    }

    fn more(&self) -> Written {
        if self.ops.is_empty() { Written::Done } else { Written::More }
    }

    fn address_of(&self, segment: usize) -> u32 {
        self.segment(segment).map_or(0, |s| s.address)
    }

    fn flash_failed(&self, ecu: &EcuId, what: String) -> Failure {
        let address = match self.ops.front() {
            Some(Op::Download { segment, .. } | Op::Check { segment, .. }) => self.address_of(*segment),
            Some(Op::Erase(group)) => {
                let first = self.plan.groups.get(*group).and_then(|g| g.segments.first());
                first.map_or(0, |s| self.address_of(*s))
            }
            _ => 0,
        };
        Failure::FlashFailed { ecu: ecu.clone(), address, what }
    }
}
