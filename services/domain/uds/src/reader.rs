use crate::{AddressAndSize, DecodeError, ServiceId};

/// Takes fields off the front of a message and names the service in every error.
pub(crate) struct Reader<'a> {
    service: ServiceId,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `rest` is what follows the service byte.
    pub(crate) fn new(service: ServiceId, rest: &'a [u8]) -> Self {
        Self { service, whole: rest.len() + 1, rest }
    }

    pub(crate) fn format(&self, what: &'static str) -> DecodeError {
        DecodeError::Format { service: self.service, what }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            let needed = self.whole - self.rest.len() + count;
            return Err(DecodeError::TooShort { service: self.service, length: self.whole, needed });
        };
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.bytes(1).map(|b| b.first().copied().unwrap_or_default())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.uint(2).map(|v| v as u16)
    }

    /// Big-endian number of at most eight bytes.
    pub(crate) fn uint(&mut self, count: usize) -> Result<u64, DecodeError> {
        Ok(self.bytes(count)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    pub(crate) fn address_and_size(&mut self) -> Result<AddressAndSize, DecodeError> {
        let alfi = self.u8()?;
        let (size_bytes, address_bytes) = (alfi >> 4, alfi & 0x0F);
        if !(1..=8).contains(&address_bytes) || !(1..=8).contains(&size_bytes) {
            return Err(self.format("address and length format"));
        }
        let address = self.uint(usize::from(address_bytes))?;
        let size = self.uint(usize::from(size_bytes))?;
        Ok(AddressAndSize { address, size, address_bytes, size_bytes })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::TooLong { service: self.service, extra }),
        }
    }
}
