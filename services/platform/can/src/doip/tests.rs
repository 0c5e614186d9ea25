use tokio::net::TcpListener;

use super::*;

const ACTIVATED: [u8; 17] = [0x02, 0xFD, 0x00, 0x06, 0, 0, 0, 9, 0x0E, 0x80, 0x10, 0x01, 0x10, 0, 0, 0, 0];
const ACKNOWLEDGED: [u8; 13] = [0x02, 0xFD, 0x80, 0x02, 0, 0, 0, 5, 0x10, 0x01, 0x0E, 0x80, 0x00];

/// A connection with routing active, and the entity's end of it.
async fn connected(ack_time: Duration) -> (DoipConnection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = LinkAddress::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let settings = DoipSettings::new("gateway", &link, 0x1001).unwrap();
    let tester = TesterSettings { ack_time, ..settings.tester };
    let entity = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
        stream.write_all(&ACTIVATED).await.unwrap();
        stream
    };
    let (connection, stream) = tokio::join!(DoipConnection::open(DoipSettings { tester, ..settings }), entity);
    (connection.unwrap(), stream)
}

#[tokio::test]
async fn an_entity_that_reads_nothing_fails_the_message_and_does_not_get_the_rest_later() {
    let limit = Duration::from_millis(200);
    let (mut connection, mut entity) = connected(limit).await;
    // More than the kernel's buffers of both ends hold.
    let message = vec![0x36; 64 * 1024 * 1024];
    let sent = tokio::time::timeout(Duration::from_secs(20), connection.send(Addressing::Physical, &message)).await;
    assert!(matches!(sent, Ok(Err(LinkError::Timeout { what: "acknowledgement", .. }))), "{sent:?}");
    let mut taken = Vec::new();
    let end = entity.read_to_end(&mut taken).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(taken.len() < message.len());
}

#[tokio::test]
async fn a_message_given_up_before_its_turn_is_not_sent() {
    let (mut connection, mut entity) = connected(Duration::from_secs(20)).await;
    for request in [[0x3E, 0x00], [0x10, 0x02]] {
        let give_up = Duration::from_millis(50);
        tokio::time::timeout(give_up, connection.send(Addressing::Physical, &request)).await.unwrap_err();
    }
    let mut seen = Vec::new();
    let answer = async {
        for _ in 0..2 {
            let mut message = [0; 14];
            entity.read_exact(&mut message).await.unwrap();
            seen.push([message[12], message[13]]);
            entity.write_all(&ACKNOWLEDGED).await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(connection.send(Addressing::Physical, &[0x22, 0xF1]), answer);
    sent.unwrap();
    assert_eq!(seen, [[0x3E, 0x00], [0x22, 0xF1]]);
}
