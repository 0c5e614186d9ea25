//! The socketcand protocol (github.com/linux-can/socketcand), raw mode, client side, and the text of its frames for both sides.
//! Classic frames only; the protocol has no agreed form for CAN FD.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bus::Wire;
use crate::{CanBus, CanError, CanFrame, CanId};

/// Longest element in angle brackets we take, in bytes; the longest frame has 60.
const MAX_ELEMENT: usize = 256;

/// Cuts the stream into what stands between `<` and `>`, without them and without outer spaces.
#[derive(Debug, Default)]
pub struct Elements {
    buffer: Vec<u8>,
}

impl Elements {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next element; `Err` when one is longer than any of the protocol.
    pub fn next_element(&mut self) -> io::Result<Option<String>> {
        let Some(end) = self.buffer.iter().position(|&byte| byte == b'>') else {
            return match self.buffer.len() > MAX_ELEMENT {
                true => Err(io::Error::new(io::ErrorKind::InvalidData, "element without end")),
                false => Ok(None),
            };
        };
        let element: Vec<u8> = self.buffer.drain(..=end).collect();
        let text = String::from_utf8_lossy(&element);
        let (_, inner) = text.trim_end_matches('>').rsplit_once('<').unwrap_or_default();
        Ok(Some(inner.trim().to_owned()))
    }
}

/// The element that brings a frame: `frame ID SECONDS DATA`, data in one piece.
pub fn frame_element(frame: &CanFrame, seconds: f64) -> String {
    let data: String = frame.data().iter().map(|byte| format!("{byte:02X}")).collect();
    format!("< frame {} {seconds:.6} {data} >", frame.id())
}

/// The element that sends a frame: `send ID LENGTH BYTE..`.
pub fn send_element(frame: &CanFrame) -> String {
    let data: String = frame.data().iter().map(|byte| format!("{byte:02X} ")).collect();
    format!("< send {} {:X} {data}>", frame.id(), frame.data().len())
}

/// Reads `frame ..` and `send ..`; `None` for every other element and for malformed ones. Three digits are a standard identifier,
/// more an extended one.
pub fn read_element(element: &str) -> Option<CanFrame> {
    let mut words = element.split_ascii_whitespace();
    let kind = words.next()?;
    let id_text = words.next()?;
    let number = u32::from_str_radix(id_text, 16).ok()?;
    let id = match (id_text.len() > 3, CanId::from_number(number)?) {
        (true, _) => CanId::Extended(number),
        (false, CanId::Standard(id)) => CanId::Standard(id),
        (false, CanId::Extended(_)) => return None,
    };
    let second = words.next()?;
    let data: Vec<u8> = match kind {
        "send" => {
            let bytes: Option<Vec<_>> = words.map(|word| u8::from_str_radix(word, 16).ok()).collect();
            bytes.filter(|bytes| usize::from_str_radix(second, 16) == Ok(bytes.len()))?
        }
        "frame" => joined_hex(words)?,
        _ => return None,
    };
    CanFrame::classic(id, &data).ok()
}

fn joined_hex<'a>(words: impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let digits: Vec<u8> = words.flat_map(str::bytes).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

/// Joins a bus of a socketcand server.
pub(crate) async fn open(host: &str, port: u16, bus: &str) -> Result<CanBus, CanError> {
    let failed = |source| CanError::Open { bus: bus.into(), source };
    let mut stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut elements = Elements::default();
    expect(&mut stream, &mut elements, "hi", bus).await?;
    for request in [format!("< open {bus} >"), "< rawmode >".into()] {
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        expect(&mut stream, &mut elements, "ok", bus).await?;
    }
    let (handle, wire) = CanBus::new(bus, false);
    let name = bus.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run(stream, elements, wire).await {
            log::warn!("socketcand bus {name} is lost: {error}");
        }
    });
    Ok(handle)
}

async fn expect(stream: &mut TcpStream, elements: &mut Elements, wanted: &str, bus: &str) -> Result<(), CanError> {
    let failed = |source| CanError::Open { bus: bus.into(), source };
    loop {
        if let Some(element) = elements.next_element().map_err(failed)? {
            if element == wanted {
                return Ok(());
            }
            let what = format!("{element:?} instead of {wanted:?}");
            return Err(CanError::Protocol { bus: bus.into(), what });
        }
        let mut buffer = [0; 256];
        let count = stream.read(&mut buffer).await.map_err(failed)?;
        if count == 0 {
            return Err(CanError::Closed { bus: bus.into() });
        }
        elements.push(buffer.get(..count).unwrap_or_default());
    }
}

async fn run(mut stream: TcpStream, mut elements: Elements, mut wire: Wire) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            outgoing = wire.next() => {
                let Some(outgoing) = outgoing else { return Ok(()) };
                stream.write_all(send_element(&outgoing.frame).as_bytes()).await?;
                // The protocol confirms nothing.
                outgoing.settle(Ok(()));
            }
            count = stream.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                elements.push(buffer.get(..count).unwrap_or_default());
                while let Some(element) = elements.next_element()? {
                    if let Some(frame) = read_element(&element) {
                        wire.deliver(frame);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_read_as_python_can_and_socketcand_write_them() {
        let frame = CanFrame::classic(CanId::Standard(0x123), &[0x11, 0x02]).unwrap();
        assert_eq!(read_element("send 123 2 11 2"), Some(frame));
        assert_eq!(read_element("frame 123 23.424242 1102"), Some(frame));
        let extended = CanFrame::classic(CanId::Extended(0x12), &[]).unwrap();
        assert_eq!(read_element("send 00000012 0 "), Some(extended));
        for wrong in ["", "send", "send 800 0", "send 123 3 1 2", "send 123 9 1 2 3 4 5 6 7 8 9", "frame 1 0 123", "ok"]
        {
            assert_eq!(read_element(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_from_both_elements(id in 0..0x2000_0000u32, data in prop::collection::vec(any::<u8>(), 0..9)) {
            let frame = CanFrame::classic(CanId::from_number(id).unwrap(), &data).unwrap();
            let mut elements = Elements::default();
            elements.push(format!("{}{}", send_element(&frame), frame_element(&frame, 1.5)).as_bytes());
            for _ in 0..2 {
                let element = elements.next_element().unwrap().unwrap();
                prop_assert_eq!(read_element(&element), Some(frame));
            }
        }

        #[test]
        fn no_text_upsets_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut elements = Elements::default();
            elements.push(&bytes);
            while let Ok(Some(element)) = elements.next_element() {
                let _ = read_element(&element);
            }
        }
    }
}
