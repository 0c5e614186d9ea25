use super::*;
use crate::bus::Wire;

const REQUEST: CanId = CanId::Standard(0x7E0);

fn channel(bus: &CanBus) -> IsoTpChannel {
    IsoTpChannel::open(bus, IsoTpSettings::tester("bcm", REQUEST, CanId::Standard(0x7E8), false)).unwrap()
}

/// How many frames the bus has room for; frames that were taken back fill it too until the backend passes over them.
fn room(bus: &CanBus) -> usize {
    let rooms: Vec<_> = std::iter::from_fn(|| bus.try_room().unwrap()).collect();
    rooms.len()
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
async fn a_functional_request_given_up_is_taken_back() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    let give_up = Duration::from_millis(300);
    for pdu in [&[0x28, 0x81, 0x01][..], &[0x85, 0x82], &[0x10, 0x83]] {
        tokio::time::timeout(give_up, channel.send(Addressing::Functional, pdu)).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(left_over(&mut wire), []);
    }
    // The next one begins afresh.
    let sending = tokio::spawn(async move { channel.send(Addressing::Functional, &[0x3E, 0x80]).await });
    let outgoing = wire.next().await.unwrap();
    assert_eq!(outgoing.frame.data().get(..3), Some([0x02, 0x3E, 0x80].as_slice()));
    outgoing.settle(Ok(()));
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_recovers_as_a_request_is_given_up_does_not_get_it() {
    for addressing in [Addressing::Physical, Addressing::Functional] {
        let (bus, mut wire) = CanBus::new("can0", false);
        let all = room(&bus);
        let other = CanFrame::classic(CanId::Standard(0x100), &[]).unwrap();
        while let Some(room) = bus.try_room().unwrap() {
            drop(room.send(other));
        }
        let mut channel = channel(&bus);
        let give_up = Duration::from_millis(300);
        tokio::time::timeout(give_up, channel.send(addressing, &[0x10, 0x83])).await.unwrap_err();
        assert_eq!(left_over(&mut wire), []);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(room(&bus), all, "{addressing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_before_the_channel_has_read_it_never_reaches_the_bus() {
    let (bus, _wire) = CanBus::new("can0", false);
    let all = room(&bus);
    let mut channel = channel(&bus);
    for addressing in [Addressing::Physical, Addressing::Functional] {
        tokio::select! {
            biased;
            result = channel.send(addressing, &[0x10, 0x83]) => panic!("{result:?}"),
            () = std::future::ready(()) => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(room(&bus), all, "{addressing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn beginning_anew_takes_a_functional_request_back_and_keeps_count_of_confirmations() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    let commands = channel.commands.clone();
    // A long answer begins, so that the bus holds a flow control as well.
    let first = [0x10, 0x14, 0x62, 0xF1, 0x89, 1, 2, 3];
    wire.deliver(CanFrame::classic(CanId::Standard(0x7E8), &first).unwrap());
    let sending = tokio::spawn(async move {
        let result = channel.send(Addressing::Functional, &[0x28, 0x81, 0x01]).await;
        (channel, result)
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    commands.send(Command::Reset).await.unwrap();
    // Long before N_As.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(left_over(&mut wire), []);
    let (mut channel, result) = sending.await.unwrap();
    assert!(result.is_err());
    // One confirmation ends the next request: none is owed to a frame that was taken back.
    let sending = tokio::spawn(async move { channel.send(Addressing::Physical, &[0x3E, 0x00]).await });
    wire.next().await.unwrap().settle(Ok(()));
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_functional_request_given_up_leaves_an_answer_under_way_alone() {
    let (bus, mut wire) = CanBus::new("can0", false);
    let mut channel = channel(&bus);
    let answer = |data: &[u8]| CanFrame::classic(CanId::Standard(0x7E8), data).unwrap();
    wire.deliver(answer(&[0x10, 0x08, 0x62, 0xF1, 0x89, 1, 2, 3]));
    let give_up = Duration::from_millis(300);
    tokio::time::timeout(give_up, channel.send(Addressing::Functional, &[0x28, 0x81, 0x01])).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let flow = wire.try_next().unwrap();
    assert_eq!(flow.frame.data().first(), Some(&0x30));
    flow.settle(Ok(()));
    assert_eq!(left_over(&mut wire), []);
    wire.deliver(answer(&[0x21, 4, 5]));
    assert_eq!(channel.receive().await.unwrap(), [0x62, 0xF1, 0x89, 1, 2, 3, 4, 5]);
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
