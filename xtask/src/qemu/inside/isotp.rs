//! The kernel's ISO-TP against ours: every message goes to `can-bridge echo` and comes back, on classic frames and on CAN FD.

use super::Guest;
use crate::shell::{Failure, Outcome};

/// Bytes of the messages: single frame, first frame, more than one block, the end of the 12-bit length, beyond it, and near to the
/// most that the kernel takes (8200 in Linux 6.1).
const PDUS: [u32; 8] = [1, 7, 8, 62, 63, 4095, 4096, 8000];
/// Debian's isotpsend and isotprecv have buffers of 5000 bytes; beyond them our own program uses the kernel's socket.
const MOST_OF_TOOLS: u32 = 4999;
const BRIDGE: &str = "/usr/libexec/pitstop/can-bridge";
/// Until the kernel listens for the message that comes back. A machine that shows it otherwise goes on after the 10 s.
const LISTENS: &str =
    "for i in $(seq 100); do grep -qiE 'vcan1 +6b0 ' /proc/net/can/rcvlist_sff && break; sleep 0.1; done";
/// Until the receiver has ended, which has a limit of its own.
const ENDED: &str =
    "for i in $(seq 150); do [ -s /run/back.end ] && break; sleep 0.2; done; [ \"$(cat /run/back.end)\" = 0 ]";

/// Frames of the bus: how `can-bridge` calls them, and what makes the tools use them.
const KINDS: [(&str, &str); 2] = [("classic", ""), ("fd", "-L 72:64:0")];

pub(super) fn both_ways(guest: &mut Guest) -> Outcome {
    for (kind, more) in KINDS {
        guest.text(&format!(
            "(setsid {BRIDGE} echo vcan1 {kind} > /run/echo.log 2>&1 & echo $! > /run/echo.pid); sleep 1"
        ))?;
        for bytes in PDUS {
            carry(guest, kind, more, bytes).map_err(|failure| {
                let said = guest.text("tail -c 300 /run/echo.log /run/back.log").unwrap_or_default();
                Failure::new(format!("{kind}, {bytes} bytes do not come back: {said}\n{}", failure.text))
            })?;
        }
        guest.text("kill $(cat /run/echo.pid); pkill -f 'can-bridge echo' || true")?;
    }
    Ok(())
}

/// One message to us and back.
fn carry(guest: &mut Guest, kind: &str, more: &str, bytes: u32) -> Outcome {
    guest.text(&format!(
        "head -c {bytes} /dev/urandom > /run/pdu; od -An -v -tx1 /run/pdu | tr -d '\\n' > /run/pdu.hex; rm -f /run/back*"
    ))?;
    let (receive, send, same) = if bytes <= MOST_OF_TOOLS {
        (
            format!("isotprecv -s 6B8 -d 6B0 {more} vcan1"),
            format!("isotpsend -s 6A0 -d 6A8 {more} vcan1 < /run/pdu.hex"),
            "[ \"$(tr -d ' \\n' < /run/back | tr A-F a-f)\" = \"$(tr -d ' \\n' < /run/pdu.hex)\" ]",
        )
    } else {
        (
            format!("{BRIDGE} kernel-receive vcan1 {kind} 6B8 6B0"),
            format!("{BRIDGE} kernel-send vcan1 {kind} 6A0 6A8 < /run/pdu"),
            "cmp /run/pdu /run/back",
        )
    };
    guest.text(&format!(
        "(setsid sh -c 'timeout 25 {receive} > /run/back 2> /run/back.log; echo $? > /run/back.end' &); {LISTENS}"
    ))?;
    guest.text(&send)?;
    guest.text(&format!("{ENDED} && {same}")).map(drop)
}
