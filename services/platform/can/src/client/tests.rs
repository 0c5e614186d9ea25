use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pitstop_uds::Did;

use super::*;

/// What was sent, and when.
type Log = Arc<Mutex<Vec<(Duration, Vec<u8>)>>>;

/// A link that notes when it gets a message and when that is out, or never gets anything out.
#[derive(Clone)]
struct Fake {
    hangs: bool,
    /// Nothing gets out before.
    free_from: Duration,
    per_byte: Duration,
    origin: Instant,
    sent: Log,
    out: Log,
}

impl Fake {
    fn new(hangs: bool) -> Self {
        let (free_from, per_byte) = (Duration::ZERO, Duration::ZERO);
        Self { hangs, free_from, per_byte, origin: Instant::now(), sent: Arc::default(), out: Arc::default() }
    }

    fn note(&self, log: &Log, pdu: &[u8]) {
        log.lock().unwrap().push((self.origin.elapsed(), pdu.to_vec()));
    }
}

#[async_trait]
impl DiagnosticLink for Fake {
    async fn send(&mut self, _: Addressing, pdu: &[u8]) -> Result<(), LinkError> {
        self.note(&self.sent, pdu);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.origin + self.free_from).await;
        tokio::time::sleep(self.per_byte * u32::try_from(pdu.len()).unwrap()).await;
        self.note(&self.out, pdu);
        Ok(())
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

#[tokio::test(start_paused = true)]
async fn a_tester_present_the_bus_never_took_does_not_cut_the_next_request_off() {
    let free_from = Duration::from_millis(1250);
    let link = Fake { free_from, per_byte: Duration::from_millis(1), ..Fake::new(false) };
    let timing = ClientTiming { s3_client: Duration::from_millis(500), ..ClientTiming::default() };
    let mut client = DiagnosticClient::new(Box::new(link.clone()), timing);
    client.keep_alive(true);
    client.idle(Duration::from_millis(1200)).await.unwrap();
    client.keep_alive(false);
    assert_eq!(*link.sent.lock().unwrap(), [(Duration::from_millis(500), vec![0x3E, 0x80])]);
    // Three seconds on the bus, much longer than P2.
    let block = Request::TransferData { counter: 1, data: vec![0; 2998] };
    let limits = StepLimits { total: Duration::from_secs(30), repeats: 0 };
    let error = client.request(&block, limits).await.unwrap_err();
    assert!(matches!(error, DiagnosticError::Client(ClientError::NoAnswer { .. })), "{error:?}");
    let out = link.out.lock().unwrap().clone();
    assert_eq!(out, [(free_from + Duration::from_secs(3), block.encode().unwrap())]);
    let waited = link.origin.elapsed() - free_from - Duration::from_secs(3);
    assert_eq!(waited, timing.p2 + timing.margin, "P2 starts when the request is out");
}
