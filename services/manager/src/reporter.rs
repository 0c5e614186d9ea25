//! Reports go to the outbox one after the other, in the order of what they tell.

use std::sync::Arc;
use std::time::Duration;

use pitstop_dbus::OtaError;
use tokio::sync::{mpsc, oneshot};

use crate::ports::Backend;
use crate::tether::Tether;

/// How often a report of a transition is tried. Unlike the end it may be lost: the next one says more.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(2);

struct Report {
    text: String,
    /// Set for what must arrive.
    arrived: Option<oneshot::Sender<Result<(), OtaError>>>,
}

/// The sending end.
#[derive(Clone)]
pub struct Reporter(mpsc::UnboundedSender<Report>);

impl Reporter {
    /// The reporter, and the work that brings its reports to the outbox.
    pub fn new(backend: Arc<dyn Backend>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut reports) = mpsc::unbounded_channel::<Report>();
        let work = async move {
            while let Some(Report { text, arrived }) = reports.recv().await {
                let outcome = bring(&*backend, &text).await;
                match arrived {
                    Some(arrived) => {
                        let _ = arrived.send(outcome);
                    }
                    None => {
                        if let Err(error) = outcome {
                            log::warn!("a report is lost: {}: {}", error.short_name(), error.text());
                        }
                    }
                }
            }
        };
        (Self(sender), work)
    }

    /// Queues a report that may be lost.
    pub fn tell(&self, text: String) {
        let _ = self.0.send(Report { text, arrived: None });
    }

    /// Returns when the report is in the outbox.
    pub async fn deliver(&self, text: String, tether: &Tether) -> Result<(), OtaError> {
        loop {
            let (arrived, outcome) = oneshot::channel();
            if self.0.send(Report { text: text.clone(), arrived: Some(arrived) }).is_err() {
                return Err(OtaError::Cancelled("the service ends".to_owned()));
            }
            match outcome.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    log::warn!("the end is not in the outbox yet: {}: {}", error.short_name(), error.text())
                }
                Err(_) => return Err(OtaError::Cancelled("the service ends".to_owned())),
            }
            tether.pause(RETRY).await?;
        }
    }
}

async fn bring(backend: &dyn Backend, text: &str) -> Result<(), OtaError> {
    let mut left = TRIES;
    loop {
        match backend.report(text).await {
            Err(error) if error.is_temporary() && left > 0 => {
                left -= 1;
                tokio::time::sleep(RETRY).await;
            }
            other => return other,
        }
    }
}
