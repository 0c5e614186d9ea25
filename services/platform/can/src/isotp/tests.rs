use super::*;
use crate::bus::Wire;

const REQUEST: CanId = CanId::Standard(0x7E0);

fn channel(bus: &CanBus) -> IsoTpChannel {
    IsoTpChannel::open(bus, IsoTpSettings::tester("bcm", REQUEST, CanId::Standard(0x7E8), false)).unwrap()
}

/// What a bus that takes nothing has to send once it recovers.
fn left_over(wire: &mut Wire) -> Vec<CanFrame> {
    std::iter::from_fn(|| wire.try_next().map(|outgoing| outgoing.frame)).collect()
}

fn is_not_sent(result: Result<(), LinkError>) -> bool {
    matches!(result, Err(LinkError::Transport { what, .. }) if what == SendError::FrameNotSent.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_takes_nothing_fails_a_request_after_n_as_and_never_sends_it() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    for (addressing, pdu) in [
        (Addressing::Physical, vec![0x10, 0x02]),
        (Addressing::Functional, vec![0x10, 0x83]),
        (Addressing::Physical, vec![0x36; 100]),
    ] {
        let started = Instant::now();
        assert!(is_not_sent(channel.send(addressing, &pdu).await));
        assert!(started.elapsed() < Duration::from_millis(1100), "{:?}", started.elapsed());
        assert_eq!(left_over(&mut wire), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_stops_no_timer() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let other = CanFrame::classic(CanId::Standard(0x100), &[]).unwrap();
    while let Some(room) = bus.try_room().unwrap() {
        drop(room.send(other));
    }
    // Those frames were taken back at once, but still fill the queue.
    let mut channel = channel(&bus);
    assert!(is_not_sent(channel.send(Addressing::Physical, &[0x11, 0x01]).await));
    assert!(is_not_sent(channel.send(Addressing::Functional, &[0x28, 0x81, 0x01]).await));
    channel.reopen().await.unwrap();
    assert_eq!(left_over(&mut wire), []);
    tokio::task::yield_now().await;
    assert_eq!(left_over(&mut wire), []);
}

#[tokio::test(start_paused = true)]
async fn frames_that_found_no_room_go_out_in_order_when_there_is_some() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let other = CanFrame::classic(CanId::Standard(0x100), &[]).unwrap();
    while let Some(room) = bus.try_room().unwrap() {
        drop(room.send(other));
    }
    let mut channel = channel(&bus);
    let sending = tokio::spawn(async move { channel.send(Addressing::Physical, &[0x3E, 0x80]).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let outgoing = wire.next().await.unwrap();
    assert_eq!(outgoing.frame.data(), [0x02, 0x3E, 0x80, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]);
    outgoing.settle(Ok(()));
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_is_taken_back() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    let give_up = Duration::from_millis(300);
    tokio::time::timeout(give_up, channel.send(Addressing::Physical, &[0x10, 0x02])).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(left_over(&mut wire), []);
    // The next one begins afresh.
    let sending = tokio::spawn(async move { channel.send(Addressing::Physical, &[0x3E, 0x00]).await });
    let outgoing = wire.next().await.unwrap();
    assert_eq!(outgoing.frame.data().get(..3), Some([0x02, 0x3E, 0x00].as_slice()));
    outgoing.settle(Ok(()));
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_refuses_a_frame_fails_the_message_and_not_the_channel() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    for addressing in [Addressing::Physical, Addressing::Functional] {
        let sending = tokio::spawn(async move {
            let result = channel.send(addressing, &[0x10, 0x02]).await;
            (channel, result)
        });
        let first = wire.next().await.unwrap();
        wire.refuse(first);
        let (again, result) = sending.await.unwrap();
        assert!(is_not_sent(result));
        channel = again;
    }
}
