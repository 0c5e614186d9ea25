//! SocketCAN: raw sockets of the Linux kernel, classic and FD.

use socketcan::tokio::CanFdSocket;
use socketcan::{CanAnyFrame, CanDataFrame, CanFdFrame, EmbeddedFrame, ExtendedId, Frame, Id, StandardId, id::FdFlags};

use crate::bus::{Outgoing, Wire};
use crate::{CanBus, CanError, CanFrame, CanId};

/// Opens an interface. Frames of both kinds are read; FD frames are sent only when `fd`.
pub(crate) fn open(interface: &str, fd: bool) -> Result<CanBus, CanError> {
    let socket = CanFdSocket::open(interface).map_err(|source| CanError::Open { bus: interface.into(), source })?;
    let (bus, wire) = CanBus::new(interface, fd);
    let name = interface.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run(&socket, wire).await {
            log::warn!("CAN interface {name} is lost: {error}");
        }
    });
    Ok(bus)
}

async fn run(socket: &CanFdSocket, mut wire: Wire) -> std::io::Result<()> {
    loop {
        tokio::select! {
            outgoing = wire.outgoing.recv() => {
                let Some(Outgoing { frame, sent }) = outgoing else { return Ok(()) };
                if let Some(frame) = to_kernel(&frame) {
                    write(socket, &frame).await?;
                    // Handed to the driver's queue; whoever sent it need not wait for it.
                    let _ = sent.send(());
                }
            }
            frame = socket.read_frame() => {
                if let Some(frame) = from_kernel(&frame?) {
                    wire.deliver(frame);
                }
            }
        }
    }
}

async fn write(socket: &CanFdSocket, frame: &CanAnyFrame) -> std::io::Result<()> {
    loop {
        let written = match frame {
            CanAnyFrame::Fd(frame) => socket.write_frame(frame).await,
            CanAnyFrame::Normal(frame) => socket.write_frame(frame).await,
            CanAnyFrame::Remote(_) | CanAnyFrame::Error(_) => return Ok(()),
        };
        match written {
            // The driver's queue is full and poll does not tell when it has room (net/can/raw.c): ask again a frame later.
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            other => return other,
        }
    }
}

const ENOBUFS: i32 = 105;

fn to_kernel(frame: &CanFrame) -> Option<CanAnyFrame> {
    let id = match frame.id() {
        CanId::Standard(id) => Id::Standard(StandardId::new(id)?),
        CanId::Extended(id) => Id::Extended(ExtendedId::new(id)?),
    };
    if frame.is_fd() {
        CanFdFrame::with_flags(id, frame.data(), FdFlags::BRS).map(CanAnyFrame::Fd)
    } else {
        CanDataFrame::new(id, frame.data()).map(CanAnyFrame::Normal)
    }
}

fn from_kernel(frame: &CanAnyFrame) -> Option<CanFrame> {
    let (fd, data) = match frame {
        CanAnyFrame::Normal(frame) => (false, frame.data()),
        CanAnyFrame::Fd(frame) => (true, frame.data()),
        CanAnyFrame::Remote(_) | CanAnyFrame::Error(_) => return None,
    };
    let id = match (frame.is_extended(), frame.raw_id()) {
        (true, id) => CanId::Extended(id),
        (false, id) => CanId::Standard(u16::try_from(id).ok()?),
    };
    CanFrame::new(id, fd, data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_reach_the_kernels_form_and_come_back() {
        for (id, fd, length) in [(0x7E0, false, 3), (0x18DA_10F1, false, 8), (0x7E1, true, 64), (0x123, true, 8)] {
            let frame = CanFrame::new(CanId::from_number(id).unwrap(), fd, &vec![0x5A; length]).unwrap();
            assert_eq!(from_kernel(&to_kernel(&frame).unwrap()), Some(frame));
        }
    }
}
