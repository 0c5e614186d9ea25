//! What an attacker with some power over the backend or the network does.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pitstop_types::{EcuId, HardwareId, SoftwareVersion, Vin};
use pitstop_uptane::{EcuVersionReport, ManifestBuilder, MemorySigner, Scheme, Signer, Time};
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::firmware::{SOFTWARE, TCU_BEFORE, TCU_HARDWARE};
use crate::world::{VIN, World};

/// The vehicle whose decision is stolen.
const OTHER_VIN: &str = "WP0ZZZ99ZTS392125";

/// Flips one byte in the middle of a new bundle, in the store from which it is served.
pub fn flip_a_byte(world: &World) -> anyhow::Result<()> {
    let bundle = world.firmware.after.first().context("no bundle")?;
    let original = fs::read(bundle)?;
    for entry in fs::read_dir(world.backend.dir.join("objects"))? {
        let path = entry?.path();
        if path.is_file() && fs::read(&path)? == original {
            let mut bytes = original;
            let middle = bytes.len() / 2;
            let byte = bytes.get_mut(middle).context("an empty bundle")?;
            *byte ^= 0x01;
            // Objects are read-only once stored; who got into the store does not mind.
            fs::remove_file(&path)?;
            fs::write(&path, bytes)?;
            return Ok(());
        }
    }
    bail!("the backend's store does not hold {}", bundle.display())
}

/// Lets the backend sign an update for another vehicle, then serves those signed files to this one: an attacker who may write the
/// backend's database, but has no key.
pub async fn replay_another_vehicle(world: &mut World, release: &str) -> anyhow::Result<()> {
    let twin = Twin::provision(world).await?;
    // Before the campaign: the backend learns what the other vehicle runs.
    twin.send_manifest(1).await?;
    world.backend.rest().campaign(release, &[OTHER_VIN]).await?;
    let mut database = SqliteConnectOptions::new()
        .filename(world.backend.dir.join("backend.sqlite"))
        .busy_timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let newest = "SELECT COALESCE(MAX(version), 0) FROM director_file WHERE vin = ? AND role = 'timestamp'";
    let own: i64 = sqlx::query_scalar(newest).bind(VIN).fetch_one(&mut database).await?;
    // Its files must be newer than what this vehicle trusts, or they would be refused as a rollback already.
    for counter in 2..60 {
        twin.send_manifest(counter).await?;
        let theirs: i64 = sqlx::query_scalar(newest).bind(OTHER_VIN).fetch_one(&mut database).await?;
        if theirs > own + 2 {
            break;
        }
    }
    let state = world.backend.rest().get(&format!("/api/v1/vehicles/{OTHER_VIN}")).await?;
    ensure!(
        state["assignments"][0]["state"] == "offered",
        "the other vehicle was offered nothing: {}",
        state["assignments"]
    );
    // Whatever is signed for this vehicle from now on is replaced by the other's.
    let steal = format!(
        "CREATE TRIGGER steal AFTER INSERT ON director_file WHEN NEW.vin = '{VIN}' BEGIN \
         DELETE FROM director_file WHERE vin = '{VIN}' AND role = NEW.role; \
         INSERT INTO director_file (vin, role, version, expires, bytes) \
         SELECT '{VIN}', role, version, expires, bytes FROM director_file WHERE vin = '{OTHER_VIN}' AND role = NEW.role; END"
    );
    sqlx::query(sqlx::AssertSqlSafe(steal)).execute(&mut database).await?;
    Ok(())
}

/// Another vehicle, as far as the backend can see.
struct Twin {
    client: reqwest::Client,
    device_url: String,
    identity: MemorySigner,
}

impl Twin {
    async fn provision(world: &World) -> anyhow::Result<Self> {
        let token = world.backend.rest().register(OTHER_VIN).await?;
        let ca = fs::read(world.backend.dir.join("tls/server-ca.pem"))?;
        let identity = MemorySigner::generate(Scheme::EcdsaP256)?;
        let key = rcgen::KeyPair::generate()?;
        let request = rcgen::CertificateParams::new(Vec::<String>::new())?.serialize_request(&key)?;
        let public = world.backend.ready["public"].as_str().context("no public address")?;
        let public = if public.starts_with("https") { public.to_owned() } else { format!("https://{public}") };
        let body = json!({
            "token": token, "vin": OTHER_VIN, "csr_pem": request.pem()?,
            "identity": { "keyid": identity.public().id().to_string(), "public_pem": identity.public().public_text() }
        });
        let plain = client(&ca, None)?;
        let response = plain.post(format!("{public}/v1/provision")).json(&body).send().await?;
        let text = response.text().await?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("provisioning answered {text}"))?;
        let certificate = answer["certificate_pem"].as_str().with_context(|| format!("no certificate in {answer}"))?;
        let client = client(&ca, Some(format!("{certificate}\n{}", key.serialize_pem())))?;
        let device_url = answer["device_url"].as_str().context("no device URL")?.to_owned();
        Ok(Self { client, device_url, identity })
    }

    async fn send_manifest(&self, counter: u64) -> anyhow::Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let time = Time::from_unix(i64::try_from(now)?)?;
        let mut manifest = ManifestBuilder::new(Vin::new(OTHER_VIN)?, EcuId::tcu(), counter, Some(time));
        let ecus = SOFTWARE.iter().map(|s| (s.ecu, s.hardware, s.number, s.before.0));
        for (ecu, hardware, number, version) in ecus.chain([("tcu", TCU_HARDWARE, "PS-TCU-0005", TCU_BEFORE)]) {
            manifest.report(EcuVersionReport {
                ecu_serial: EcuId::new(ecu)?,
                hardware_id: HardwareId::new(hardware)?,
                part_serial: format!("OTHER-{ecu}"),
                software_number: number.to_owned(),
                version: Some(SoftwareVersion::new(version)?),
                not_responding: false,
                installed_image: None,
                attacks_detected: String::new(),
                time: None,
                report_counter: 0,
            });
        }
        let url = format!("{}/v1/device/manifest", self.device_url.trim_end_matches('/'));
        let response = self.client.put(url).body(manifest.sign(&self.identity)?).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "the other vehicle's manifest: {status}: {}", response.text().await?);
        Ok(())
    }
}

fn client(ca: &[u8], identity: Option<String>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(ca)?]);
    if let Some(pem) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
    }
    Ok(builder.timeout(Duration::from_secs(30)).build()?)
}
