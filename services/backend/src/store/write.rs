//! The one write: a list of changes in one transaction.

use pitstop_types::{EcuId, Vin};
use serde::Serialize;
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

use super::{Change, StoreError};
use crate::model::{
    Assignment, AuditEntry, Bundle, Campaign, Claim, Ecu, Event, Issued, MetaFile, Release, Transition, Vehicle,
};

/// Versions of a metadata file that are kept: a vehicle that has just read the timestamp still finds the files it names.
const KEEP_VERSIONS: i64 = 8;

pub(super) async fn apply(writer: &SqlitePool, changes: Vec<Change>) -> Result<(), StoreError> {
    let mut transaction: Transaction<'_, Sqlite> = writer.begin_with("BEGIN IMMEDIATE").await?;
    for change in changes {
        apply_one(&mut transaction, change).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn apply_one(db: &mut SqliteConnection, change: Change) -> Result<(), StoreError> {
    match change {
        Change::AddBundle(bundle) => add_bundle(db, bundle).await,
        Change::SetSecurityFloor(id, floor) => set_security_floor(db, &id, floor).await,
        Change::PutRelease(release) => put_release(db, &release).await,
        Change::PutVehicle(vehicle) => put_vehicle(db, &vehicle).await,
        Change::PutEcu(vin, ecu) => put_ecu(db, &vin, &ecu).await,
        Change::RemoveEcu(vin, ecu) => remove_ecu(db, &vin, &ecu).await,
        Change::AddClaim(claim) => add_claim(db, claim).await,
        Change::UseClaim { token_hash, at, issued } => use_claim(db, &token_hash, at, &issued).await,
        Change::PutCampaign(campaign) => put_campaign(db, &campaign).await,
        Change::PutAssignment(assignment) => put_assignment(db, &assignment).await,
        Change::AddTransition(transition) => add_transition(db, transition).await,
        Change::AddEvent(event) => add_event(db, event).await,
        Change::AddDirectorFile(vin, file) => add_director_file(db, &vin, file).await,
        Change::AddImageFile(file) => add_image_file(db, file).await,
        Change::AddAudit(entry) => add_audit(db, entry).await,
    }
}

fn text<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|cause| StoreError::Corrupt(what, cause))
}

fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Range(value))
}

/// A taken unique key is the caller's conflict, not the database's failure.
fn taken(what: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |cause| match &cause {
        sqlx::Error::Database(database) if database.is_unique_violation() => StoreError::Exists(what),
        _ => StoreError::Database(cause),
    }
}

async fn add_bundle(db: &mut SqliteConnection, bundle: Bundle) -> Result<(), StoreError> {
    let sql = "INSERT INTO bundle (id, name, path, sha256, sha512, length, kind, hardware, version, counter, manifest_hash, \
               created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(bundle.id).bind(bundle.name).bind(bundle.path);
    let query = query.bind(bundle.sha256).bind(bundle.sha512).bind(number(bundle.length)?).bind(bundle.kind);
    let query = query.bind(bundle.hardware.to_string()).bind(bundle.version.to_string()).bind(number(bundle.counter)?);
    let query = query.bind(bundle.manifest_hash).bind(bundle.created_at);
    query.execute(db).await.map_err(taken("a bundle of this hardware and version"))?;
    Ok(())
}

async fn set_security_floor(db: &mut SqliteConnection, id: &str, floor: u64) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE bundle SET security_floor = ? WHERE id = ?").bind(number(floor)?).bind(id);
    query.execute(db).await?;
    Ok(())
}

async fn put_release(db: &mut SqliteConnection, release: &Release) -> Result<(), StoreError> {
    let sql = "INSERT INTO release (id, state, created_at, data) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (id) DO UPDATE SET state = ?2, data = ?4";
    let query = sqlx::query(sql).bind(&release.id).bind(release.state.as_str()).bind(release.created_at);
    query.bind(text("release", release)?).execute(db).await?;
    Ok(())
}

async fn put_vehicle(db: &mut SqliteConnection, vehicle: &Vehicle) -> Result<(), StoreError> {
    let sql = "INSERT INTO vehicle (vin, device, last_seen, data) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (vin) DO UPDATE SET device = ?2, last_seen = ?3, data = ?4";
    let query = sqlx::query(sql).bind(vehicle.vin.as_str()).bind(vehicle.device.as_deref()).bind(vehicle.last_seen);
    query.bind(text("vehicle", vehicle)?).execute(db).await.map_err(taken("the device id"))?;
    Ok(())
}

async fn put_ecu(db: &mut SqliteConnection, vin: &Vin, ecu: &Ecu) -> Result<(), StoreError> {
    let sql = "INSERT INTO ecu (vin, ecu, data) VALUES (?1, ?2, ?3) ON CONFLICT (vin, ecu) DO UPDATE SET data = ?3";
    let query = sqlx::query(sql).bind(vin.as_str()).bind(ecu.ecu.as_str()).bind(text("ECU", ecu)?);
    query.execute(db).await?;
    Ok(())
}

async fn remove_ecu(db: &mut SqliteConnection, vin: &Vin, ecu: &EcuId) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM ecu WHERE vin = ? AND ecu = ?").bind(vin.as_str()).bind(ecu.as_str());
    query.execute(db).await?;
    Ok(())
}

async fn add_claim(db: &mut SqliteConnection, claim: Claim) -> Result<(), StoreError> {
    let sql = "INSERT INTO claim (token_hash, vin, expires_at, used_at, device, key_sha256) VALUES (?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(claim.token_hash).bind(claim.vin.to_string()).bind(claim.expires_at);
    let (device, key) = claim.issued.map(|issued| (issued.device, issued.key_sha256)).unzip();
    query.bind(claim.used_at).bind(device).bind(key).execute(db).await?;
    Ok(())
}

async fn use_claim(db: &mut SqliteConnection, token_hash: &str, at: i64, issued: &Issued) -> Result<(), StoreError> {
    let sql = "UPDATE claim SET used_at = ?, device = ?, key_sha256 = ? WHERE token_hash = ? AND used_at IS NULL";
    let query = sqlx::query(sql).bind(at).bind(&issued.device).bind(&issued.key_sha256);
    let done = query.bind(token_hash).execute(db).await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Exists("a device provisioned with this token")) }
}

async fn put_campaign(db: &mut SqliteConnection, campaign: &Campaign) -> Result<(), StoreError> {
    let sql = "INSERT INTO campaign (id, state, created_at, data) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (id) DO UPDATE SET state = ?2, data = ?4";
    let query = sqlx::query(sql).bind(campaign.id.as_str()).bind(campaign.state.as_str()).bind(campaign.created_at);
    query.bind(text("campaign", campaign)?).execute(db).await?;
    Ok(())
}

async fn put_assignment(db: &mut SqliteConnection, assignment: &Assignment) -> Result<(), StoreError> {
    let sql = "INSERT INTO assignment (id, campaign, vin, stage, state, since, data) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
               ON CONFLICT (id) DO UPDATE SET state = ?5, since = ?6, data = ?7";
    let query = sqlx::query(sql).bind(assignment.id.as_str()).bind(assignment.campaign.as_str());
    let query = query.bind(assignment.vin.as_str()).bind(assignment.stage).bind(assignment.state.as_str());
    let query = query.bind(assignment.since).bind(text("assignment", assignment)?);
    query.execute(db).await.map_err(taken("an assignment of this vehicle"))?;
    Ok(())
}

async fn add_transition(db: &mut SqliteConnection, step: Transition) -> Result<(), StoreError> {
    let sql = "INSERT INTO transition (at, assignment, campaign, vin, from_state, to_state, reason) \
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(step.at).bind(step.assignment).bind(step.campaign).bind(step.vin.to_string());
    query.bind(step.from.as_str()).bind(step.to.as_str()).bind(step.reason).execute(db).await?;
    Ok(())
}

async fn add_event(db: &mut SqliteConnection, event: Event) -> Result<(), StoreError> {
    let data = text("event", &event.data)?;
    let query = sqlx::query("INSERT INTO event (at, vin, kind, text, data) VALUES (?, ?, ?, ?, ?)");
    let query = query.bind(event.at).bind(event.vin.to_string()).bind(event.kind).bind(event.text).bind(data);
    query.execute(db).await?;
    Ok(())
}

async fn add_director_file(db: &mut SqliteConnection, vin: &Vin, file: MetaFile) -> Result<(), StoreError> {
    let (role, version) = (file.role.as_str(), number(file.version)?);
    let sql = "INSERT INTO director_file (vin, role, version, expires, bytes) VALUES (?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(vin.as_str()).bind(role).bind(version).bind(file.expires).bind(file.bytes);
    query.execute(&mut *db).await.map_err(taken("this version of the Director's file"))?;
    let old = sqlx::query("DELETE FROM director_file WHERE vin = ? AND role = ? AND version <= ?");
    old.bind(vin.as_str()).bind(role).bind(version - KEEP_VERSIONS).execute(db).await?;
    Ok(())
}

async fn add_image_file(db: &mut SqliteConnection, file: MetaFile) -> Result<(), StoreError> {
    let (role, version) = (file.role.as_str(), number(file.version)?);
    let sql = "INSERT INTO image_file (role, version, expires, bytes) VALUES (?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(role).bind(version).bind(file.expires).bind(file.bytes);
    query.execute(&mut *db).await.map_err(taken("this version of the Image repository's file"))?;
    let old = sqlx::query("DELETE FROM image_file WHERE role = ? AND version <= ?");
    old.bind(role).bind(version - KEEP_VERSIONS).execute(db).await?;
    Ok(())
}

async fn add_audit(db: &mut SqliteConnection, entry: AuditEntry) -> Result<(), StoreError> {
    let detail = text("audit entry", &entry.detail)?;
    let sql = "INSERT INTO audit (seq, at, actor, action, detail, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(number(entry.seq)?).bind(entry.at).bind(entry.actor).bind(entry.action);
    query.bind(detail).bind(entry.previous).bind(entry.hash).execute(db).await.map_err(taken("this audit entry"))?;
    Ok(())
}
