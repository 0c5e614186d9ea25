use async_trait::async_trait;
use futures_util::StreamExt as _;
use pitstop_dbus::{Answer, Facts, OtaError};
use pitstop_types::{PromptFacts, UpdateEnd, UpdateId};
use zbus::Connection;

use super::proxy;
use crate::ports::Driver;

pub struct BusDriver {
    bus: Connection,
}

impl BusDriver {
    pub fn new(bus: &Connection) -> Self {
        Self { bus: bus.clone() }
    }

    async fn next_answer(&self) -> Result<(), OtaError> {
        let hmi = proxy!(HmiProxy, &self.bus);
        let mut answers = hmi.receive_answered().await?;
        answers.next().await;
        Ok(())
    }
}

#[async_trait]
impl Driver for BusDriver {
    async fn ask(&self, update: &UpdateId, facts: &PromptFacts) -> Result<(), OtaError> {
        let facts = Facts {
            purpose: facts.purpose.clone(),
            changes: facts.changes.clone(),
            expected_secs: facts.expected_secs,
            unavailable: facts.unavailable.clone(),
            instructions: facts.instructions.clone(),
        };
        proxy!(HmiProxy, &self.bus).ask(update.as_str(), &facts).await.map(|_| ())
    }

    async fn ask_again(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(HmiProxy, &self.bus).ask_again(update.as_str()).await
    }

    async fn answer(&self, update: &UpdateId) -> Result<Answer, OtaError> {
        proxy!(HmiProxy, &self.bus).get_answer(update.as_str()).await
    }

    async fn answered(&self) {
        if self.next_answer().await.is_err() {
            // Not heard: the caller looks by itself from time to time.
            std::future::pending::<()>().await;
        }
    }

    async fn withdraw(&self, update: &UpdateId) -> Result<(), OtaError> {
        proxy!(HmiProxy, &self.bus).withdraw(update.as_str()).await
    }

    async fn notify(&self, update: &UpdateId, end: UpdateEnd, text: &str) -> Result<(), OtaError> {
        proxy!(HmiProxy, &self.bus).notify(update.as_str(), end.as_str(), text).await.map(|_| ())
    }
}
