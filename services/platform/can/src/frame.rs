use std::fmt;

use pitstop_isotp::fd_length;

/// Identifier of a frame; a smaller one wins the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CanId {
    /// 11 bits.
    Standard(u16),
    /// 29 bits.
    Extended(u32),
}

impl CanId {
    /// 11 bits up to 7FF, 29 bits above, as addresses are written in `vehicle.toml`. `None` beyond 29 bits.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0..=0x7FF => Some(Self::Standard(number as u16)),
            0x800..=0x1FFF_FFFF => Some(Self::Extended(number)),
            _ => None,
        }
    }

    pub const fn number(self) -> u32 {
        match self {
            Self::Standard(id) => id as u32,
            Self::Extended(id) => id,
        }
    }

    pub const fn is_extended(self) -> bool {
        matches!(self, Self::Extended(_))
    }

    /// Order of arbitration: the base 11 bits first, and a standard frame before an extended one with the same base.
    pub const fn arbitration(self) -> (u32, bool, u32) {
        match self {
            Self::Standard(id) => (id as u32, false, 0),
            Self::Extended(id) => (id >> 18, true, id & 0x3_FFFF),
        }
    }
}

impl fmt::Display for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(id) => write!(f, "{id:03X}"),
            Self::Extended(id) => write!(f, "{id:08X}"),
        }
    }
}

/// Why values do not make a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a classic frame carries 0 to 8 bytes, not {length}")]
    ClassicLength { length: usize },
    #[error("a CAN FD frame carries 0 to 8, 12, 16, 20, 24, 32, 48 or 64 bytes, not {length}")]
    FdLength { length: usize },
    #[error("identifier 0x{number:X} has more than 29 bits")]
    Id { number: u32 },
}

/// A CAN or CAN FD data frame. Remote and error frames have no place in this project.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CanFrame {
    id: CanId,
    fd: bool,
    length: u8,
    data: [u8; 64],
}

impl CanFrame {
    /// A classic frame of up to 8 bytes.
    pub fn classic(id: CanId, data: &[u8]) -> Result<Self, FrameError> {
        if data.len() > 8 {
            return Err(FrameError::ClassicLength { length: data.len() });
        }
        Ok(Self::filled(id, false, data))
    }

    /// A CAN FD frame whose data has the higher bit rate.
    pub fn fd(id: CanId, data: &[u8]) -> Result<Self, FrameError> {
        if data.len() > 64 || fd_length(data.len()) != data.len() {
            return Err(FrameError::FdLength { length: data.len() });
        }
        Ok(Self::filled(id, true, data))
    }

    /// Either, by `fd`.
    pub fn new(id: CanId, fd: bool, data: &[u8]) -> Result<Self, FrameError> {
        if fd { Self::fd(id, data) } else { Self::classic(id, data) }
    }

    fn filled(id: CanId, fd: bool, bytes: &[u8]) -> Self {
        let mut data = [0; 64];
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self { id, fd, length: bytes.len() as u8, data }
    }

    pub const fn id(&self) -> CanId {
        self.id
    }

    pub const fn is_fd(&self) -> bool {
        self.fd
    }

    pub fn data(&self) -> &[u8] {
        let (data, _) = self.data.split_at(usize::from(self.length).min(64));
        data
    }
}

impl fmt::Debug for CanFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {:02X?}", self.id, if self.fd { " fd" } else { "" }, self.data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_identifiers_are_checked() {
        let id = CanId::from_number(0x7E0).unwrap();
        assert_eq!(CanFrame::classic(id, &[0; 9]), Err(FrameError::ClassicLength { length: 9 }));
        assert_eq!(CanFrame::fd(id, &[0; 9]), Err(FrameError::FdLength { length: 9 }));
        assert_eq!(CanFrame::fd(id, &[7; 12]).unwrap().data(), [7; 12]);
        assert_eq!(CanId::from_number(0x800), Some(CanId::Extended(0x800)));
        assert_eq!(CanId::from_number(0x2000_0000), None);
    }

    #[test]
    fn a_standard_frame_wins_over_an_extended_one_with_the_same_base() {
        let standard = CanId::Standard(0x100).arbitration();
        let extended = CanId::Extended(0x100 << 18).arbitration();
        assert!(standard < extended);
        assert!(extended < CanId::Standard(0x101).arbitration());
    }
}
