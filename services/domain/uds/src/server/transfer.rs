//! Download (34, 36, 37), after ISO 14229-1:2020 figures 31, 33 and 34.

use super::{Act, Download, EcuContent, PendingKind, Protection, Reply, Rule, Server};
use crate::reader::Reader;
use crate::{BlockLength, Nrc, Response, ServiceId};

#[derive(Debug)]
pub(super) struct Transfer {
    download: Download,
    max_block: BlockLength,
    received: u64,
    /// The counter of the last block taken; the first block has 01, after FF comes 00.
    last: Option<u8>,
    /// Opened under security or authentication, so it ends with them.
    pub(super) protected: bool,
}

impl Transfer {
    pub(super) fn new(download: Download, max_block: BlockLength, protected: bool) -> Self {
        Self { download, max_block, received: 0, last: None, protected }
    }

    pub(super) fn max_block(&self) -> BlockLength {
        self.max_block
    }

    fn expected(&self) -> u8 {
        self.last.map_or(1, |last| last.wrapping_add(1))
    }
}

impl<C: EcuContent> Server<C> {
    pub(super) fn request_download(&mut self, rule: Rule, pdu: &[u8]) -> Result<Act, Nrc> {
        let download = parse_download(pdu)?;
        self.content.check_download(&download)?;
        self.check_protection(rule.protection)?;
        if self.transfer.is_some() {
            return Err(Nrc::ConditionsNotCorrect);
        }
        let protected = rule.protection != Protection::Open;
        match self.content.begin_download(&download) {
            Reply::Done(max_block) => {
                self.transfer = Some(Transfer::new(download, max_block, protected));
                Ok(Act::Answer(Response::RequestDownload { max_block }))
            }
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => Ok(Act::Later(PendingKind::OpenTransfer(download, protected))),
        }
    }

    pub(super) fn transfer_data(&mut self, pdu: &[u8]) -> Result<Act, Nrc> {
        let transfer = self.transfer.as_ref().ok_or(Nrc::RequestSequenceError)?;
        let &[_, counter, ref data @ ..] = pdu else { return Err(Nrc::IncorrectMessageLengthOrInvalidFormat) };
        let repeated = transfer.last == Some(counter);
        let left = transfer.download.memory.size - transfer.received;
        if left == 0 && !repeated {
            return Err(Nrc::RequestSequenceError);
        }
        if data.is_empty() {
            return Err(Nrc::IncorrectMessageLengthOrInvalidFormat);
        }
        if repeated {
            // A repeated counter is a retransmission: answer it, do not write again.
            return Ok(Act::Answer(Response::TransferData { counter, data: Vec::new() }));
        }
        let length = data.len() as u64;
        if length > left {
            self.lose_transfer();
            return Err(Nrc::TransferDataSuspended);
        }
        if counter != transfer.expected() {
            return Err(Nrc::WrongBlockSequenceCounter);
        }
        if length > transfer.max_block.data_bytes() {
            return Err(Nrc::RequestOutOfRange);
        }
        match self.content.write_block(&transfer.download, transfer.received, data) {
            Reply::Done(()) => Ok(Act::Answer(self.block_taken(counter, length))),
            Reply::Refused(nrc) => Err(nrc),
            Reply::Later => Ok(Act::Later(PendingKind::Block { counter, length })),
        }
    }

    pub(super) fn block_taken(&mut self, counter: u8, length: u64) -> Response {
        if let Some(transfer) = &mut self.transfer {
            transfer.received += length;
            transfer.last = Some(counter);
        }
        Response::TransferData { counter, data: Vec::new() }
    }

    pub(super) fn request_transfer_exit(&mut self, pdu: &[u8]) -> Result<Act, Nrc> {
        let transfer = self.transfer.as_ref().ok_or(Nrc::RequestSequenceError)?;
        if transfer.received < transfer.download.memory.size {
            // Bytes are missing; the transfer stays open.
            return Err(Nrc::RequestSequenceError);
        }
        let parameters = pdu.get(1..).unwrap_or_default();
        match self.content.close_download(&transfer.download, parameters) {
            Reply::Done(parameters) => {
                self.transfer = None;
                Ok(Act::Answer(Response::RequestTransferExit { parameters }))
            }
            Reply::Refused(nrc) => {
                self.close_refused(nrc);
                Err(nrc)
            }
            Reply::Later => Ok(Act::Later(PendingKind::CloseTransfer)),
        }
    }

    /// Only a failure of the close itself ends the transfer (figure 34); a request in the wrong form may be made again in the right one.
    pub(super) fn close_refused(&mut self, nrc: Nrc) {
        if nrc != Nrc::IncorrectMessageLengthOrInvalidFormat {
            self.lose_transfer();
        }
    }

    /// The transfer ends without a 37 that succeeded.
    pub(super) fn lose_transfer(&mut self) {
        if self.transfer.take().is_some() {
            self.content.download_lost();
        }
    }
}

/// Length below the least possible first, then the format byte, then the length it asks for (figure 31).
fn parse_download(pdu: &[u8]) -> Result<Download, Nrc> {
    let &[_, data_format, ref rest @ ..] = pdu else { return Err(Nrc::IncorrectMessageLengthOrInvalidFormat) };
    if pdu.len() < 5 {
        return Err(Nrc::IncorrectMessageLengthOrInvalidFormat);
    }
    let alfi = rest.first().copied().unwrap_or_default();
    let (size_bytes, address_bytes) = (usize::from(alfi >> 4), usize::from(alfi & 0x0F));
    if !(1..=8).contains(&size_bytes) || !(1..=8).contains(&address_bytes) {
        return Err(Nrc::RequestOutOfRange);
    }
    if rest.len() != 1 + size_bytes + address_bytes {
        return Err(Nrc::IncorrectMessageLengthOrInvalidFormat);
    }
    let mut reader = Reader::new(ServiceId::RequestDownload, rest);
    let memory = reader.address_and_size().map_err(|_| Nrc::RequestOutOfRange)?;
    if memory.size == 0 {
        return Err(Nrc::RequestOutOfRange);
    }
    Ok(Download { data_format, memory })
}
