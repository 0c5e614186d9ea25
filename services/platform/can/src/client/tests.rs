use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pitstop_uds::Did;

use super::*;

/// What was sent, and when.
type Log = Arc<Mutex<Vec<(Duration, Vec<u8>)>>>;

/// A link that notes what it sends and when, or never gets anything out.
#[derive(Clone)]
struct Fake {
    hangs: bool,
    origin: Instant,
    sent: Log,
}

impl Fake {
    fn new(hangs: bool) -> Self {
        Self { hangs, origin: Instant::now(), sent: Arc::default() }
    }
}

#[async_trait]
impl DiagnosticLink for Fake {
    async fn send(&mut self, _: Addressing, pdu: &[u8]) -> Result<(), LinkError> {
        self.sent.lock().unwrap().push((self.origin.elapsed(), pdu.to_vec()));
        if self.hangs { std::future::pending().await } else { Ok(()) }
    }

    async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        std::future::pending().await
    }

    async fn reopen(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn has_connection(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_in_short_turns_sends_tester_present_every_two_seconds() {
    let link = Fake::new(false);
    let mut client = DiagnosticClient::new(Box::new(link.clone()), ClientTiming::default());
    for _ in 0..100 {
        client.keep_alive(true);
        client.idle(Duration::from_millis(100)).await.unwrap();
        client.keep_alive(false);
    }
    let sent = link.sent.lock().unwrap().clone();
    assert_eq!(sent.len(), 4, "{sent:?}");
    for (number, (at, pdu)) in (1..).zip(&sent) {
        assert_eq!(*pdu, [0x3E, 0x80]);
        let due = Duration::from_secs(2) * number;
        assert!((due..due + Duration::from_millis(100)).contains(at), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_hangs_holds_a_request_no_longer_than_its_limit() {
    let link = Fake::new(true);
    let mut client = DiagnosticClient::new(Box::new(link.clone()), ClientTiming::default());
    let request = Request::ReadDataByIdentifier { dids: vec![Did::ECU_SOFTWARE_VERSION] };
    let limits = StepLimits::for_request(&request).within(Duration::from_secs(3));
    let error = client.request(&request, limits).await.unwrap_err();
    assert!(matches!(error, DiagnosticError::Client(ClientError::LinkLost { .. })), "{error:?}");
    assert_eq!(link.origin.elapsed().as_secs(), 3);
    client.keep_alive(true);
    client.idle(Duration::from_secs(10)).await.unwrap();
    assert!(link.origin.elapsed() < Duration::from_secs(17), "{:?}", link.origin.elapsed());
}
