//! Two machines on a bus that carries one frame per millisecond.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]
use std::time::Duration;

use pitstop_isotp::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

struct Bus {
    now: Monotonic,
    a: IsoTp,
    b: IsoTp,
    frames: Vec<Vec<u8>>,
}

impl Bus {
    fn new(a: Settings, b: Settings) -> Self {
        Self { now: Duration::ZERO, a: IsoTp::new(a).unwrap(), b: IsoTp::new(b).unwrap(), frames: vec![] }
    }

    /// Carries frames until nothing moves, jumping over waits shorter than `patience`.
    fn run(&mut self, patience: Duration) {
        loop {
            let from_a = self.a.poll_transmit();
            let from_b = self.b.poll_transmit();
            if from_a.is_none() && from_b.is_none() {
                let next = self.a.poll_timeout().into_iter().chain(self.b.poll_timeout()).min();
                let Some(next) = next.filter(|&next| next <= self.now + patience) else { return };
                self.now = self.now.max(next);
                self.a.handle_timeout(self.now);
                self.b.handle_timeout(self.now);
                continue;
            }
            self.now += MS;
            self.a.handle_timeout(self.now);
            self.b.handle_timeout(self.now);
            if let Some(frame) = from_a {
                self.a.handle_sent(self.now);
                self.b.handle_input(self.now, &frame);
                self.frames.push(frame);
            }
            if let Some(frame) = from_b {
                self.b.handle_sent(self.now);
                self.a.handle_input(self.now, &frame);
                self.frames.push(frame);
            }
        }
    }
}

fn message(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + 3) as u8).collect()
}

fn events(machine: &mut IsoTp) -> Vec<Event> {
    std::iter::from_fn(|| machine.poll_event()).collect()
}

#[test]
fn a_short_message_is_one_padded_frame() {
    let mut bus = Bus::new(Settings::classic(), Settings::classic());
    bus.a.send(bus.now, vec![0x3E, 0x00]).unwrap();
    bus.run(MS);
    assert_eq!(bus.frames, [[0x02, 0x3E, 0x00, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]]);
    assert_eq!(events(&mut bus.a), [Event::Sent]);
    assert_eq!(events(&mut bus.b), [Event::Received(vec![0x3E, 0x00])]);
}

#[test]
fn the_classic_example_of_twenty_bytes() {
    let mut bus = Bus::new(Settings { padding: None, ..Settings::classic() }, Settings::classic());
    bus.a.send(bus.now, message(20)).unwrap();
    bus.run(MS);
    assert_eq!(bus.frames.len(), 4);
    assert_eq!(bus.frames[0][..2], [0x10, 20]);
    assert_eq!(bus.frames[1][..3], [0x30, 0, 0]);
    assert_eq!((bus.frames[2][0], bus.frames[2].len()), (0x21, 8));
    assert_eq!((bus.frames[3][0], bus.frames[3].len()), (0x22, 8));
    assert_eq!(events(&mut bus.b), [Event::Received(message(20))]);
}

#[test]
fn beyond_4095_bytes_the_length_escapes() {
    let mut bus = Bus::new(Settings::fd(), Settings::fd());
    bus.a.send(bus.now, message(4096)).unwrap();
    bus.run(MS);
    assert_eq!(bus.frames[0][..6], [0x10, 0, 0, 0, 0x10, 0]);
    assert!(bus.frames.iter().all(|frame| frame.len() == 64 || frame.len() <= 8 || frame[0] & 0xF0 == 0x20));
    assert_eq!(events(&mut bus.b), [Event::Received(message(4096))]);
}

#[test]
fn separation_time_and_block_size_are_kept() {
    let receiver = Settings { block_size: 2, separation: 20 * MS, ..Settings::classic() };
    let mut bus = Bus::new(Settings::classic(), receiver);
    bus.a.send(bus.now, message(6 + 7 * 5)).unwrap();
    bus.run(20 * MS);
    let flows = bus.frames.iter().filter(|frame| frame[0] == 0x30).count();
    assert_eq!(flows, 3);
    // 5 frames: a pause inside each block of two, none before a block's first frame.
    assert!(bus.now >= 2 * 20 * MS, "{:?}", bus.now);
    assert_eq!(events(&mut bus.b), [Event::Received(message(41))]);
}

#[test]
fn a_receiver_refuses_what_is_longer_than_its_limit_before_reserving_memory() {
    let mut bus = Bus::new(Settings::classic(), Settings { max_receive: 100, ..Settings::classic() });
    bus.a.send(bus.now, message(101)).unwrap();
    bus.run(MS);
    assert_eq!(events(&mut bus.a), [Event::SendFailed(SendError::Overflow)]);
    assert_eq!(events(&mut bus.b), [Event::ReceiveFailed(ReceiveError::TooLong { length: 101, limit: 100 })]);
    bus.b.handle_input(bus.now, &[0x10, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2]);
    assert_eq!(bus.b.poll_transmit().unwrap()[0], 0x32);
}

#[test]
fn a_silent_receiver_ends_the_transmission() {
    let mut a = IsoTp::new(Settings::classic()).unwrap();
    a.send(Duration::ZERO, message(20)).unwrap();
    a.poll_transmit().unwrap();
    a.handle_timeout(999 * MS);
    assert_eq!(a.poll_event(), None);
    a.handle_timeout(1000 * MS);
    assert_eq!(a.poll_event(), Some(Event::SendFailed(SendError::FrameNotSent)));
    a.send(2000 * MS, message(20)).unwrap();
    a.poll_transmit().unwrap();
    a.handle_sent(2500 * MS);
    a.handle_timeout(3499 * MS);
    assert_eq!(a.poll_event(), None);
    a.handle_timeout(3500 * MS);
    assert_eq!(a.poll_event(), Some(Event::SendFailed(SendError::NoFlowControl)));
}

#[test]
fn waits_are_borne_up_to_the_limit() {
    let mut a = IsoTp::new(Settings { max_wait: 2, ..Settings::classic() }).unwrap();
    a.send(Duration::ZERO, message(20)).unwrap();
    a.poll_transmit().unwrap();
    a.handle_sent(MS);
    for at in [500, 1400] {
        a.handle_input(at * MS, &[0x31, 0, 0]);
    }
    assert_eq!(a.poll_timeout(), Some(2400 * MS));
    a.handle_input(2000 * MS, &[0x31, 0, 0]);
    assert_eq!(a.poll_event(), Some(Event::SendFailed(SendError::TooManyWaits { times: 2 })));
}

#[test]
fn a_reserved_flow_status_ends_the_transmission_and_one_out_of_turn_is_ignored() {
    let mut a = IsoTp::new(Settings::classic()).unwrap();
    a.handle_input(MS, &[0x33, 0, 0]);
    a.handle_input(MS, &[0x30, 0, 0]);
    assert_eq!(a.poll_event(), None);
    a.send(MS, message(20)).unwrap();
    a.poll_transmit().unwrap();
    a.handle_input(MS, &[0x33, 0, 0]);
    assert_eq!(a.poll_event(), Some(Event::SendFailed(SendError::InvalidFlowStatus { status: 3 })));
}

#[test]
fn a_wrong_sequence_a_short_frame_a_pause_and_a_new_message_end_a_reception() {
    let begun = || {
        let mut b = IsoTp::new(Settings::classic()).unwrap();
        b.handle_input(Duration::ZERO, &[0x10, 20, 1, 2, 3, 4, 5, 6]);
        b.poll_transmit().unwrap();
        b
    };
    let mut b = begun();
    b.handle_input(MS, &[0x22, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(b.poll_event(), Some(Event::ReceiveFailed(ReceiveError::WrongSequence { expected: 1, found: 2 })));
    let mut b = begun();
    b.handle_input(MS, &[0x21, 1, 2]);
    assert_eq!(b.poll_event(), Some(Event::ReceiveFailed(ReceiveError::WrongLength { expected: 7, found: 2 })));
    let mut b = begun();
    b.handle_timeout(1000 * MS);
    assert_eq!(b.poll_event(), Some(Event::ReceiveFailed(ReceiveError::NoConsecutiveFrame)));
    let mut b = begun();
    b.handle_input(MS, &[0x02, 0x3E, 0]);
    assert_eq!(events(&mut b), [Event::ReceiveFailed(ReceiveError::Interrupted), Event::Received(vec![0x3E, 0])]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for frame_length in [0, 7, 9, 63, 65] {
        assert!(IsoTp::new(Settings { frame_length, ..Settings::fd() }).is_err());
    }
    assert_eq!(IsoTp::single_frame(&Settings::classic(), &[0; 8]), Err(SendRefused::TooLong { length: 8, limit: 7 }));
    assert_eq!(IsoTp::new(Settings::classic()).unwrap().send(MS, vec![]), Err(SendRefused::Empty));
}

fn settings() -> impl Strategy<Value = Settings> {
    let lengths = prop::sample::select(vec![8usize, 12, 16, 20, 24, 32, 48, 64]);
    (lengths, any::<bool>(), 0..9u8, 0..3u64, 1..9usize).prop_map(|(frame_length, pad, block_size, st, window)| {
        Settings {
            frame_length,
            padding: pad.then_some(0xAA),
            block_size,
            separation: Duration::from_millis(st),
            window,
            ..Settings::classic()
        }
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_received_both_ways_at_once(
        a in settings(), b in settings(), addressed in any::<bool>(), there in 1..6000usize, back in 1..300usize
    ) {
        let bytes = |ours, theirs| addressed.then_some((ours, theirs));
        let mut bus = Bus::new(
            Settings { address_bytes: bytes(0xF1, 0x10), ..a },
            Settings { address_bytes: bytes(0x10, 0xF1), ..b },
        );
        bus.a.send(bus.now, message(there)).unwrap();
        bus.b.send(bus.now, message(back)).unwrap();
        bus.run(10 * MS);
        let mut at_a = events(&mut bus.a);
        let mut at_b = events(&mut bus.b);
        at_a.retain(|event| *event != Event::Sent);
        at_b.retain(|event| *event != Event::Sent);
        prop_assert_eq!(at_a, vec![Event::Received(message(back))]);
        prop_assert_eq!(at_b, vec![Event::Received(message(there))]);
    }

    #[test]
    fn no_frames_upset_a_machine(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..65), 0..60)) {
        let mut machine = IsoTp::new(Settings { max_receive: 5000, ..Settings::fd() }).unwrap();
        machine.send(Duration::ZERO, message(600)).unwrap();
        let mut now = Duration::ZERO;
        for frame in frames {
            now += MS;
            machine.handle_input(now, &frame);
            while machine.poll_transmit().is_some() {
                machine.handle_sent(now);
            }
            while let Some(event) = machine.poll_event() {
                if let Event::Received(data) = event {
                    prop_assert!(data.len() <= 5000);
                }
            }
        }
    }
}
