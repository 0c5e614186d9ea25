//! The kernel's own ISO-TP (`CAN_ISOTP`) as a peer of ours: one message out, or one in. For lengths beyond the 5000 bytes that
//! isotpsend and isotprecv of can-utils have room for.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use socketcan::addr::AF_CAN;
use socketcan::socket::CAN_ISOTP;
use socketcan::{CanAddr, ExtendedId, Id, SocketOptions, StandardId};

/// Longest message that the kernel takes, in bytes: `MAX_MSG_LENGTH` of net/can/isotp.c up to Linux 6.3; later ones take more.
pub const LONGEST: usize = 8200;
/// For a whole message on an emulated machine: 8000 bytes are 1143 classic frames.
const LIMIT: Duration = Duration::from_secs(20);

// linux/can/isotp.h: SOL_CAN_BASE + CAN_ISOTP, and the options used here.
const SOL_CAN_ISOTP: i32 = 106;
const CAN_ISOTP_OPTS: i32 = 1;
const CAN_ISOTP_LL_OPTS: i32 = 5;
/// Flag of `CAN_ISOTP_OPTS`: sending ends when the last frame is out, with the error if there was one.
const CAN_ISOTP_WAIT_TX_DONE: u32 = 0x400;

/// One of the kernel's ISO-TP channels.
pub struct KernelChannel(Socket);

impl KernelChannel {
    /// Sends from `source` and receives at `destination`, flow control included; `fd` takes CAN FD frames of 64 bytes.
    pub fn open(interface: &str, fd: bool, source: Id, destination: Id) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(AF_CAN), Type::DGRAM, Some(Protocol::from(CAN_ISOTP)))?;
        let channel = Self(socket);
        channel.set_socket_option_bytes(SOL_CAN_ISOTP, CAN_ISOTP_OPTS, &options())?;
        if fd {
            channel.set_socket_option_bytes(SOL_CAN_ISOTP, CAN_ISOTP_LL_OPTS, &FD_LINK)?;
        }
        channel.0.set_read_timeout(Some(LIMIT))?;
        channel.0.bind(&CanAddr::from_iface_isotp(interface, destination, source)?.into_sock_addr())?;
        Ok(channel)
    }

    /// Sends one message and waits for its end.
    pub fn send(&self, message: &[u8]) -> anyhow::Result<()> {
        let sent = self.0.send(message)?;
        ensure!(sent == message.len(), "the kernel took {sent} of {} bytes", message.len());
        Ok(())
    }

    /// Waits for one message.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        // One byte more, so that a longer message does not look like one of exactly this length.
        let mut message = vec![0; LONGEST + 1];
        let length = (&self.0).read(&mut message)?;
        message.truncate(length);
        Ok(message)
    }
}

impl AsRawFd for KernelChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl SocketOptions for KernelChannel {}

/// `struct can_isotp_options`: flags, time between frames, address byte, padding of both directions, address byte expected.
fn options() -> [u8; 12] {
    let mut bytes = [0; 12];
    if let Some(flags) = bytes.first_chunk_mut() {
        *flags = CAN_ISOTP_WAIT_TX_DONE.to_ne_bytes();
    }
    bytes
}

/// `struct can_isotp_ll_options`: frames of `struct canfd_frame`, 64 bytes of data, no flags.
const FD_LINK: [u8; 3] = [72, 64, 0];

/// `kernel-send`: what stands on standard input, as one message.
pub fn send_input(interface: &str, fd: bool, source: Id, destination: Id) -> anyhow::Result<()> {
    let mut message = Vec::new();
    io::stdin().take(LONGEST as u64 + 1).read_to_end(&mut message).context("reading the message")?;
    ensure!(message.len() <= LONGEST, "more than {LONGEST} bytes");
    let channel = KernelChannel::open(interface, fd, source, destination).context("opening the kernel's ISO-TP")?;
    channel.send(&message).with_context(|| format!("sending {} bytes", message.len()))
}

/// `kernel-receive`: one message, to standard output.
pub fn receive_to_output(interface: &str, fd: bool, source: Id, destination: Id) -> anyhow::Result<()> {
    let channel = KernelChannel::open(interface, fd, source, destination).context("opening the kernel's ISO-TP")?;
    // Whoever started this program must know when a message may be sent.
    eprintln!("listening");
    let message = channel.receive().context("receiving")?;
    io::stdout().write_all(&message).and_then(|()| io::stdout().flush()).context("writing the message")
}

/// An identifier in hexadecimal: 11 bits up to 7FF, 29 bits above.
pub fn identifier(text: &str) -> anyhow::Result<Id> {
    let number = u32::from_str_radix(text, 16).with_context(|| format!("{text:?} is no hexadecimal number"))?;
    let standard = u16::try_from(number).ok().and_then(StandardId::new).map(Id::Standard);
    match standard.or_else(|| ExtendedId::new(number).map(Id::Extended)) {
        Some(id) => Ok(id),
        None => bail!("{text} has more than 29 bits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_laid_out_as_the_kernel_reads_them() {
        let options = options();
        assert_eq!(u32::from_ne_bytes(*options.first_chunk().unwrap()), 0x400);
        assert!(options.iter().skip(4).all(|byte| *byte == 0));
    }

    #[test]
    fn identifiers_have_11_or_29_bits() {
        assert_eq!(identifier("7FF").unwrap(), Id::Standard(StandardId::new(0x7FF).unwrap()));
        assert_eq!(identifier("18DA10f1").unwrap(), Id::Extended(ExtendedId::new(0x18DA_10F1).unwrap()));
        assert!(matches!(identifier("800").unwrap(), Id::Extended(_)));
        for wrong in ["", "0x7", "20000000", "g"] {
            assert!(identifier(wrong).is_err(), "{wrong}");
        }
    }
}
