use std::time::Duration;

use pitstop_isotp::{Event, IsoTp, Settings};

use crate::script::{script, steps};

/// Longest message this receiver takes, in bytes.
const LONGEST: usize = 5000;

/// A peer that sends any frames at any time, while we send and receive.
pub fn channel(data: &[u8]) {
    let Some((&kind, script)) = data.split_first() else { return };
    let base = if kind & 1 == 0 { Settings::classic() } else { Settings::fd() };
    let address_bytes = (kind & 2 != 0).then_some((0x11, 0x22));
    let settings = Settings { address_bytes, block_size: kind >> 4, max_receive: LONGEST, ..base };
    let (frame_length, mut machine) = (settings.frame_length, IsoTp::new(settings).expect("fitting settings"));
    let mut now = Duration::ZERO;
    for step in steps(script) {
        now += step.pause;
        machine.handle_timeout(now);
        match step.kind % 4 {
            0 | 1 => machine.handle_input(now, step.bytes),
            2 => drop(machine.send(now, step.bytes.repeat(9))),
            _ => machine.handle_sent(now),
        }
        while let Some(frame) = machine.poll_transmit() {
            assert!(!frame.is_empty() && frame.len() <= frame_length);
        }
        while let Some(event) = machine.poll_event() {
            assert!(!matches!(event, Event::Received(message) if message.is_empty() || message.len() > LONGEST));
        }
        machine.handle_timeout(now);
        assert!(
            machine.poll_timeout().is_none_or(|at| at > now),
            "a time that has passed would be waited for in a circle"
        );
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let begin = |kind: u8, steps: &[(u8, u8, &[u8])]| [&[kind], script(steps).as_slice()].concat();
    vec![
        begin(
            0,
            &[
                (0, 0, &[0x02, 0x3E, 0x00]),
                (0, 1, &[0x10, 20, 1, 2, 3, 4, 5, 6]),
                (0, 1, &[0x21, 7, 8, 9, 10, 11, 12, 13]),
            ],
        ),
        begin(
            0x20,
            &[(2, 0, &[0x36; 20]), (3, 0, &[]), (0, 1, &[0x30, 2, 0x14]), (3, 1, &[]), (0, 120, &[0x31, 0, 0])],
        ),
        begin(
            3,
            &[
                (0, 0, &[0x22, 0x10, 0, 0, 0, 0x13, 0x88, 1]),
                (0, 1, &[0x22, 0x21, 1, 2]),
                (0, 0, &[0x22, 0x00, 12, 1, 2]),
            ],
        ),
    ]
}
