//! Where the backend's knowledge lives: one trait, so that another database can stand behind it.
//!
//! Reads are plain methods. Every write is a list of [`Change`]s applied in one transaction: the services read, decide (in pure
//! functions where they can), and hand over all that follows at once. Nothing is half recorded, and a second database has one
//! write method to implement.

mod sqlite;
mod write;

use std::collections::BTreeMap;

use async_trait::async_trait;
use pitstop_types::{CampaignId, EcuId, UnixSeconds, UpdateId, Vin};

use crate::model::{
    Assignment, AssignmentState, AuditEntry, Bundle, Campaign, Claim, Ecu, Event, Issued, MetaFile, Release, Role,
    Transition, Vehicle,
};
use crate::rules::Counts;

pub use sqlite::SqliteRepository;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database did not answer as it should")]
    Database(#[from] sqlx::Error),
    #[error("the database cannot be brought to this program's format")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("a stored {0} cannot be read")]
    Corrupt(&'static str, #[source] serde_json::Error),
    #[error("the number {0} does not fit the database")]
    Range(u64),
    /// A unique key is taken (by an upload or an operator at the same time).
    #[error("{0} exists already")]
    Exists(&'static str),
}

/// One thing to write.
#[derive(Debug, Clone)]
pub enum Change {
    AddBundle(Bundle),
    /// Bundle id and floor.
    SetSecurityFloor(String, u64),
    /// Insert or replace, whole.
    PutRelease(Release),
    PutVehicle(Vehicle),
    PutEcu(Vin, Ecu),
    RemoveEcu(Vin, EcuId),
    AddClaim(Claim),
    /// Fails the transaction unless the claim is unused: two provisioning requests cannot share a token.
    UseClaim {
        token_hash: String,
        at: UnixSeconds,
        issued: Issued,
    },
    PutCampaign(Campaign),
    PutAssignment(Assignment),
    AddTransition(Transition),
    AddEvent(Event),
    AddDirectorFile(Vin, MetaFile),
    AddImageFile(MetaFile),
    AddAudit(AuditEntry),
}

/// What is asked of a database. All lists are ordered by key or time; `limit` bounds every list that grows with the fleet.
#[async_trait]
pub trait Repository: Send + Sync {
    /// Applies all changes, or none.
    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError>;

    async fn bundles(&self) -> Result<BTreeMap<String, Bundle>, StoreError>;
    async fn bundle_by_sha256(&self, sha256: &str) -> Result<Option<Bundle>, StoreError>;
    async fn releases(&self) -> Result<Vec<Release>, StoreError>;
    async fn release(&self, id: &str) -> Result<Option<Release>, StoreError>;

    async fn vehicles(&self, after: &str, limit: u32) -> Result<Vec<Vehicle>, StoreError>;
    async fn vehicle(&self, vin: &Vin) -> Result<Option<Vehicle>, StoreError>;
    async fn vehicle_by_device(&self, device: &str) -> Result<Option<Vehicle>, StoreError>;
    async fn ecus(&self, vin: &Vin) -> Result<Vec<Ecu>, StoreError>;
    async fn claim(&self, token_hash: &str) -> Result<Option<Claim>, StoreError>;

    async fn campaigns(&self) -> Result<Vec<Campaign>, StoreError>;
    async fn campaign(&self, id: &CampaignId) -> Result<Option<Campaign>, StoreError>;
    async fn assignment(&self, id: &UpdateId) -> Result<Option<Assignment>, StoreError>;
    async fn assignments_of_campaign(
        &self,
        id: &CampaignId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Assignment>, StoreError>;
    /// Newest last; ended ones too.
    async fn assignments_of_vehicle(&self, vin: &Vin) -> Result<Vec<Assignment>, StoreError>;
    /// A campaign's assignments that entered `state` before `before`, oldest first.
    async fn in_state_since(
        &self,
        id: &CampaignId,
        state: AssignmentState,
        before: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<Assignment>, StoreError>;
    /// Per stage.
    async fn counts(&self, id: &CampaignId) -> Result<BTreeMap<u32, Counts>, StoreError>;

    /// Newest first.
    async fn transitions(&self, vin: &Vin, limit: u32) -> Result<Vec<Transition>, StoreError>;
    /// Newest first.
    async fn events(&self, vin: &Vin, limit: u32) -> Result<Vec<Event>, StoreError>;

    async fn director_file(&self, vin: &Vin, role: Role, version: Option<u64>) -> Result<Option<MetaFile>, StoreError>;
    async fn image_file(&self, role: Role, version: Option<u64>) -> Result<Option<MetaFile>, StoreError>;

    async fn audit_head(&self) -> Result<Option<AuditEntry>, StoreError>;
    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;
}
