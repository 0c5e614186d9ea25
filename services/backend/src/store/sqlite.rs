//! SQLite: write-ahead log, one writer, a few readers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use pitstop_types::{CampaignId, UnixSeconds, UpdateId, Vin};
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Row as _, SqlitePool};

use super::{Change, Repository, StoreError, write};
use crate::model::{
    Assignment, AssignmentState, AuditEntry, Bundle, Campaign, Claim, Ecu, Event, Issued, MetaFile, Release, Role,
    Transition, Vehicle,
};
use crate::rules::Counts;

/// Readers beside the writer; each costs a file handle and its page cache.
const READERS: u32 = 4;
/// SQLite's own wait for a lock. Only a checkpoint or a backup from outside holds one; five seconds outlast both.
const BUSY: Duration = Duration::from_secs(5);

/// The repository on one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteRepository {
    reader: SqlitePool,
    /// Exactly one connection: writers queue here, in order, in place of failing with SQLITE_BUSY.
    writer: SqlitePool,
}

impl SqliteRepository {
    /// Opens or makes the file and brings it to this program's format.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: what a vehicle was told has been recorded is on the disk, also after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let reader = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { reader, writer })
    }
}

fn json<T: DeserializeOwned>(what: &'static str, row: &SqliteRow) -> Result<T, StoreError> {
    let text: String = row.try_get("data")?;
    serde_json::from_str(&text).map_err(|cause| StoreError::Corrupt(what, cause))
}

fn all<T: DeserializeOwned>(what: &'static str, rows: &[SqliteRow]) -> Result<Vec<T>, StoreError> {
    rows.iter().map(|row| json(what, row)).collect()
}

fn one<T: DeserializeOwned>(what: &'static str, row: Option<&SqliteRow>) -> Result<Option<T>, StoreError> {
    row.map(|row| json(what, row)).transpose()
}

/// A column that holds a plain word, through the type's serde form.
fn word<T: DeserializeOwned>(what: &'static str, row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(|cause| StoreError::Corrupt(what, cause))
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

fn bundle(row: &SqliteRow) -> Result<Bundle, StoreError> {
    Ok(Bundle {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        path: row.try_get("path")?,
        sha256: row.try_get("sha256")?,
        sha512: row.try_get("sha512")?,
        length: number(row, "length")?,
        kind: row.try_get("kind")?,
        hardware: word("bundle", row, "hardware")?,
        version: word("bundle", row, "version")?,
        counter: number(row, "counter")?,
        manifest_hash: row.try_get("manifest_hash")?,
        security_floor: row.try_get::<Option<i64>, _>("security_floor")?.and_then(|floor| u64::try_from(floor).ok()),
        created_at: row.try_get("created_at")?,
    })
}

fn transition(row: &SqliteRow) -> Result<Transition, StoreError> {
    Ok(Transition {
        at: row.try_get("at")?,
        assignment: row.try_get("assignment")?,
        campaign: row.try_get("campaign")?,
        vin: word("transition", row, "vin")?,
        from: word("transition", row, "from_state")?,
        to: word("transition", row, "to_state")?,
        reason: row.try_get("reason")?,
    })
}

fn event(row: &SqliteRow) -> Result<Event, StoreError> {
    Ok(Event {
        at: row.try_get("at")?,
        vin: word("event", row, "vin")?,
        kind: row.try_get("kind")?,
        text: row.try_get("text")?,
        data: json("event", row)?,
    })
}

fn audit_entry(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    let detail: String = row.try_get("detail")?;
    Ok(AuditEntry {
        seq: number(row, "seq")?,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        detail: serde_json::from_str(&detail).map_err(|cause| StoreError::Corrupt("audit entry", cause))?,
        previous: row.try_get("previous")?,
        hash: row.try_get("hash")?,
    })
}

fn file(role: Role, row: &SqliteRow) -> Result<MetaFile, StoreError> {
    Ok(MetaFile {
        role,
        version: number(row, "version")?,
        expires: row.try_get("expires")?,
        bytes: row.try_get("bytes")?,
    })
}

#[async_trait]
impl Repository for SqliteRepository {
    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        write::apply(&self.writer, changes).await
    }

    async fn bundles(&self) -> Result<BTreeMap<String, Bundle>, StoreError> {
        let rows = sqlx::query("SELECT * FROM bundle").fetch_all(&self.reader).await?;
        rows.iter().map(|row| bundle(row).map(|bundle| (bundle.id.clone(), bundle))).collect()
    }

    async fn bundle_by_sha256(&self, sha256: &str) -> Result<Option<Bundle>, StoreError> {
        let query = sqlx::query("SELECT * FROM bundle WHERE sha256 = ?").bind(sha256);
        query.fetch_optional(&self.reader).await?.as_ref().map(bundle).transpose()
    }

    async fn releases(&self) -> Result<Vec<Release>, StoreError> {
        let rows = sqlx::query("SELECT data FROM release ORDER BY rowid").fetch_all(&self.reader).await?;
        all("release", &rows)
    }

    async fn release(&self, id: &str) -> Result<Option<Release>, StoreError> {
        let query = sqlx::query("SELECT data FROM release WHERE id = ?").bind(id);
        one("release", query.fetch_optional(&self.reader).await?.as_ref())
    }

    async fn vehicles(&self, after: &str, limit: u32) -> Result<Vec<Vehicle>, StoreError> {
        let query = sqlx::query("SELECT data FROM vehicle WHERE vin > ? ORDER BY vin LIMIT ?").bind(after).bind(limit);
        all("vehicle", &query.fetch_all(&self.reader).await?)
    }

    async fn vehicle(&self, vin: &Vin) -> Result<Option<Vehicle>, StoreError> {
        let query = sqlx::query("SELECT data FROM vehicle WHERE vin = ?").bind(vin.as_str());
        one("vehicle", query.fetch_optional(&self.reader).await?.as_ref())
    }

    async fn vehicle_by_device(&self, device: &str) -> Result<Option<Vehicle>, StoreError> {
        let query = sqlx::query("SELECT data FROM vehicle WHERE device = ?").bind(device);
        one("vehicle", query.fetch_optional(&self.reader).await?.as_ref())
    }

    async fn ecus(&self, vin: &Vin) -> Result<Vec<Ecu>, StoreError> {
        let query = sqlx::query("SELECT data FROM ecu WHERE vin = ? ORDER BY ecu").bind(vin.as_str());
        all("ECU", &query.fetch_all(&self.reader).await?)
    }

    async fn claim(&self, token_hash: &str) -> Result<Option<Claim>, StoreError> {
        let query = sqlx::query("SELECT * FROM claim WHERE token_hash = ?").bind(token_hash);
        let Some(row) = query.fetch_optional(&self.reader).await? else { return Ok(None) };
        let (device, key): (Option<String>, Option<String>) = (row.try_get("device")?, row.try_get("key_sha256")?);
        Ok(Some(Claim {
            token_hash: row.try_get("token_hash")?,
            vin: word("claim", &row, "vin")?,
            expires_at: row.try_get("expires_at")?,
            used_at: row.try_get("used_at")?,
            issued: device.zip(key).map(|(device, key_sha256)| Issued { device, key_sha256 }),
        }))
    }

    async fn campaigns(&self) -> Result<Vec<Campaign>, StoreError> {
        let rows = sqlx::query("SELECT data FROM campaign ORDER BY rowid").fetch_all(&self.reader).await?;
        all("campaign", &rows)
    }

    async fn campaign(&self, id: &CampaignId) -> Result<Option<Campaign>, StoreError> {
        let query = sqlx::query("SELECT data FROM campaign WHERE id = ?").bind(id.as_str());
        one("campaign", query.fetch_optional(&self.reader).await?.as_ref())
    }

    async fn assignment(&self, id: &UpdateId) -> Result<Option<Assignment>, StoreError> {
        let query = sqlx::query("SELECT data FROM assignment WHERE id = ?").bind(id.as_str());
        one("assignment", query.fetch_optional(&self.reader).await?.as_ref())
    }

    async fn assignments_of_campaign(
        &self,
        id: &CampaignId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Assignment>, StoreError> {
        let sql = "SELECT data FROM assignment WHERE campaign = ? AND vin > ? ORDER BY vin LIMIT ?";
        let query = sqlx::query(sql).bind(id.as_str()).bind(after).bind(limit);
        all("assignment", &query.fetch_all(&self.reader).await?)
    }

    async fn assignments_of_vehicle(&self, vin: &Vin) -> Result<Vec<Assignment>, StoreError> {
        let query = sqlx::query("SELECT data FROM assignment WHERE vin = ? ORDER BY rowid").bind(vin.as_str());
        all("assignment", &query.fetch_all(&self.reader).await?)
    }

    async fn in_state_since(
        &self,
        id: &CampaignId,
        state: AssignmentState,
        before: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<Assignment>, StoreError> {
        let sql = "SELECT data FROM assignment WHERE campaign = ? AND state = ? AND since < ? ORDER BY since LIMIT ?";
        let query = sqlx::query(sql).bind(id.as_str()).bind(state.as_str()).bind(before).bind(limit);
        all("assignment", &query.fetch_all(&self.reader).await?)
    }

    async fn counts(&self, id: &CampaignId) -> Result<BTreeMap<u32, Counts>, StoreError> {
        let sql = "SELECT stage, state, count(*) AS n FROM assignment WHERE campaign = ? GROUP BY stage, state";
        let mut stages: BTreeMap<u32, Counts> = BTreeMap::new();
        for row in sqlx::query(sql).bind(id.as_str()).fetch_all(&self.reader).await? {
            let state = word("assignment", &row, "state")?;
            stages.entry(row.try_get("stage")?).or_default().0.insert(state, number(&row, "n")?);
        }
        Ok(stages)
    }

    async fn transitions(&self, vin: &Vin, limit: u32) -> Result<Vec<Transition>, StoreError> {
        let sql = "SELECT * FROM transition WHERE vin = ? ORDER BY seq DESC LIMIT ?";
        let rows = sqlx::query(sql).bind(vin.as_str()).bind(limit).fetch_all(&self.reader).await?;
        rows.iter().map(transition).collect()
    }

    async fn events(&self, vin: &Vin, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = "SELECT * FROM event WHERE vin = ? ORDER BY seq DESC LIMIT ?";
        let rows = sqlx::query(sql).bind(vin.as_str()).bind(limit).fetch_all(&self.reader).await?;
        rows.iter().map(event).collect()
    }

    async fn director_file(&self, vin: &Vin, role: Role, version: Option<u64>) -> Result<Option<MetaFile>, StoreError> {
        let sql = "SELECT * FROM director_file WHERE vin = ?1 AND role = ?2 AND (?3 IS NULL OR version = ?3) \
                   ORDER BY version DESC LIMIT 1";
        let version = version.map(|version| i64::try_from(version).unwrap_or(0));
        let query = sqlx::query(sql).bind(vin.as_str()).bind(role.as_str()).bind(version);
        query.fetch_optional(&self.reader).await?.as_ref().map(|row| file(role, row)).transpose()
    }

    async fn image_file(&self, role: Role, version: Option<u64>) -> Result<Option<MetaFile>, StoreError> {
        let sql = "SELECT * FROM image_file WHERE role = ?1 AND (?2 IS NULL OR version = ?2) \
                   ORDER BY version DESC LIMIT 1";
        let version = version.map(|version| i64::try_from(version).unwrap_or(0));
        let query = sqlx::query(sql).bind(role.as_str()).bind(version);
        query.fetch_optional(&self.reader).await?.as_ref().map(|row| file(role, row)).transpose()
    }

    async fn audit_head(&self) -> Result<Option<AuditEntry>, StoreError> {
        let row = sqlx::query("SELECT * FROM audit ORDER BY seq DESC LIMIT 1").fetch_optional(&self.reader).await?;
        row.as_ref().map(audit_entry).transpose()
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = "SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?";
        let query = sqlx::query(sql).bind(i64::try_from(after).unwrap_or(i64::MAX)).bind(limit);
        query.fetch_all(&self.reader).await?.iter().map(audit_entry).collect()
    }
}
