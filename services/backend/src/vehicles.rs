//! Device management: vehicles by VIN, the device that speaks for each, and how a device gets its certificate.

use pitstop_types::{Digest, Vin};
use pitstop_uptane::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::backend::{Backend, Urls};
use crate::clock::later;
use crate::ecus::{KnownEcu, check_list};
use crate::error::Error;
use crate::init::{DeviceCa, random_hex};
use crate::links::Link;
use crate::model::{Assignment, AssignmentState, Claim, Issued, PlanPart, Vehicle, new_id};
use crate::rules::{Fitted, plan_update};
use crate::store::Change;

/// Who acts in the audit log when a device gets its certificate: nobody has proved a name yet.
const DEVICE: &str = "device";

/// Registers a vehicle, or gives a registered one a new claim (its TCU was replaced).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterVehicle {
    #[schema(value_type = String)]
    pub vin: Vin,
    #[serde(default)]
    pub ecus: Vec<KnownEcu>,
}

/// The token is shown once; only its hash is stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClaimToken {
    #[schema(value_type = String)]
    pub vin: Vin,
    pub claim_token: String,
    pub expires_at: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdentityKey {
    pub keyid: String,
    pub public_pem: String,
}

/// A device asks for its certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvisionRequest {
    pub token: String,
    pub vin: Vin,
    pub csr_pem: String,
    pub identity: IdentityKey,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MqttAddress {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvisionAnswer {
    pub device_id: String,
    pub certificate_pem: String,
    /// Under which both listeners and the broker show their certificates.
    pub ca_pem: String,
    pub device_url: String,
    pub public_url: String,
    pub mqtt: MqttAddress,
}

/// Whether a vehicle may get a release, and why (not).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Eligibility {
    pub eligible: bool,
    pub reason: String,
    /// What would change, with the way back.
    pub plan: Vec<PlanPart>,
}

/// A download link.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkAnswer {
    pub url: String,
    /// Unix seconds.
    pub expires: i64,
}

impl Backend {
    /// Registers the vehicle if it is new and makes a one-time token for its device.
    pub async fn register(&self, actor: &str, request: RegisterVehicle) -> Result<ClaimToken, Error> {
        check_list(&request.ecus)?;
        let _deciding = self.decide().await;
        let now = self.clock.now();
        let mut changes = vec![self.audit(actor, "register", json!({ "vin": request.vin })).await?];
        if self.repo.vehicle(&request.vin).await?.is_none() {
            changes.push(Change::PutVehicle(Vehicle::new(request.vin.clone(), now)));
            changes.push(self.event(&request.vin, "registered", "registered", json!({})));
        } else if !request.ecus.is_empty() && !self.repo.ecus(&request.vin).await?.is_empty() {
            return Err(Error::Conflict("the vehicle's ECUs are known already".into()));
        }
        for known in request.ecus {
            changes.push(Change::PutEcu(request.vin.clone(), known.unreported(now)));
        }
        let token = random_hex();
        let expires_at = later(now, self.settings.lifetimes.claim_secs);
        let token_hash = Digest::of(token.as_bytes()).to_string();
        changes.push(Change::AddClaim(Claim {
            token_hash,
            vin: request.vin.clone(),
            expires_at,
            used_at: None,
            issued: None,
        }));
        self.repo.apply(changes).await?;
        Ok(ClaimToken { vin: request.vin, claim_token: token, expires_at })
    }

    /// Turns a token into a certificate for one device. The device's private keys stay where they are: it sends a request and a public key.
    ///
    /// The same device may ask again while the token lasts: its power may have failed before it could store the answer.
    pub async fn provision(&self, request: ProvisionRequest) -> Result<ProvisionAnswer, Error> {
        let _deciding = self.decide().await;
        let claim = self.check_claim(&request).await?;
        let (device, certificate) = match claim.used_at {
            None => self.make_device(claim.token_hash, &request).await?,
            Some(_) => self.issue_again(claim, &request).await?,
        };
        let urls = self.listeners()?;
        let mqtt = MqttAddress { host: self.settings.mqtt.host.clone(), port: self.settings.mqtt.port };
        Ok(ProvisionAnswer {
            device_id: device,
            certificate_pem: certificate,
            ca_pem: self.server_ca_pem.clone(),
            device_url: urls.device,
            public_url: urls.public,
            mqtt,
        })
    }

    /// Uses the token up for a new device; answers its name and certificate.
    async fn make_device(&self, token_hash: String, request: &ProvisionRequest) -> Result<(String, String), Error> {
        let now = self.clock.now();
        let key = PublicKey::from_p256_pem(&request.identity.public_pem)
            .map_err(|error| Error::Invalid(format!("identity key: {error}")))?;
        if key.id().to_string() != request.identity.keyid {
            return Err(Error::Invalid("identity key: the key id is not the hash of the key".into()));
        }
        let device = new_id("d");
        let key_sha256 = DeviceCa::key_sha256(&request.csr_pem).map_err(wrong_request)?.to_string();
        let certificate = self.certificate(request, &device)?;
        self.listeners()?;
        let mut vehicle = self.need_vehicle(&request.vin).await?;
        let text = vehicle.device.as_ref().map_or_else(|| "first device".into(), |old| format!("in place of {old}"));
        vehicle.device = Some(device.clone());
        vehicle.identity_keyid = Some(key.id().to_string());
        vehicle.identity_pem = Some(key.public_text().to_owned());
        vehicle.provisioned_at = Some(now);
        vehicle.last_seen = now;
        // A new device counts from the start: its key is new, so no old manifest or status of another passes for its own.
        vehicle.report_counter = 0;
        vehicle.manifest_time = None;
        vehicle.last_seq = 0;
        let event = self.event(&request.vin, "provisioned", text, json!({ "device": device, "keyid": key.id() }));
        let audit = self.audit(DEVICE, "provision", json!({ "vin": request.vin, "device": device })).await?;
        let issued = Issued { device: device.clone(), key_sha256 };
        let used = Change::UseClaim { token_hash, at: now, issued };
        let mut changes = vec![used, Change::PutVehicle(vehicle), event, audit];
        changes.extend(self.proof_from_the_start(&request.vin).await?);
        self.repo.apply(changes).await?;
        self.metrics.provisioned.add(1);
        log::info!("vehicle {}: device {device} provisioned", request.vin);
        Ok((device, certificate))
    }

    /// Every manifest of a new device is later than any offer to the one before, though it counts from the start.
    async fn proof_from_the_start(&self, vin: &Vin) -> Result<Vec<Change>, Error> {
        let assignments = self.repo.assignments_of_vehicle(vin).await?.into_iter();
        let unproven = assignments.filter(|assignment| assignment.state.may_become(AssignmentState::Succeeded));
        Ok(unproven.map(|assignment| Change::PutAssignment(Assignment { offered_counter: 0, ..assignment })).collect())
    }

    /// A new certificate for the device that this token has made, if it is that device that asks, and still the vehicle's.
    ///
    /// Its counters stay: what it has sent so far it has sent.
    async fn issue_again(&self, claim: Claim, request: &ProvisionRequest) -> Result<(String, String), Error> {
        let issued = claim.issued.ok_or_else(claim_refused)?;
        let key = DeviceCa::key_sha256(&request.csr_pem).map_err(|_| claim_refused())?;
        let vehicle = self.need_vehicle(&request.vin).await?;
        let same_identity = vehicle.identity_keyid.as_ref() == Some(&request.identity.keyid);
        if key.to_string() != issued.key_sha256 || vehicle.device.as_ref() != Some(&issued.device) || !same_identity {
            return Err(claim_refused());
        }
        if !vehicle.authorised {
            return Err(Error::Forbidden("not-authorised", format!("not authorised: {}", vehicle.authorised_reason)));
        }
        let certificate = self.certificate(request, &issued.device)?;
        let (device, text) = (issued.device, "the same device asked again");
        let event =
            self.event(&request.vin, "provisioned", text, json!({ "device": device, "keyid": request.identity.keyid }));
        let audit = self.audit(DEVICE, "provision-again", json!({ "vin": request.vin, "device": device })).await?;
        let vehicle = Vehicle { last_seen: self.clock.now(), ..vehicle };
        self.repo.apply(vec![Change::PutVehicle(vehicle), event, audit]).await?;
        log::info!("vehicle {}: device {device} got its certificate again", request.vin);
        Ok((device, certificate))
    }

    fn certificate(&self, request: &ProvisionRequest, device: &str) -> Result<String, Error> {
        let secs = self.settings.lifetimes.device_certificate_secs;
        self.ca.issue(&request.csr_pem, device, self.clock.now(), secs).map_err(wrong_request)
    }

    fn listeners(&self) -> Result<Urls, Error> {
        self.urls.get().cloned().ok_or(Error::Conflict("the listeners are not up yet".into()))
    }

    /// The request's token, if that is this vehicle's and has not expired; it may be used.
    async fn check_claim(&self, request: &ProvisionRequest) -> Result<Claim, Error> {
        let token_hash = Digest::of(request.token.as_bytes()).to_string();
        let claim = self.repo.claim(&token_hash).await?.ok_or_else(claim_refused)?;
        if claim.expires_at < self.clock.now() || claim.vin != request.vin {
            return Err(claim_refused());
        }
        Ok(claim)
    }

    /// May the vehicle get this release, as things stand?
    pub async fn eligibility(&self, vin: &Vin, release: &str) -> Result<Eligibility, Error> {
        let vehicle = self.need_vehicle(vin).await?;
        let release = self.need_release(release).await?;
        let (ecus, listed) = (self.repo.ecus(vin).await?, self.listed_bundles().await?);
        let plan = plan_update(Fitted { vehicle: &vehicle, ecus: &ecus, listed: &listed }, &release);
        Ok(match plan {
            Ok(plan) => Eligibility { eligible: true, reason: "it may have it".into(), plan },
            Err(why) => Eligibility { eligible: false, reason: why.to_string(), plan: Vec::new() },
        })
    }

    /// Blocks or admits a vehicle, with the operator's reason.
    pub async fn authorise(&self, actor: &str, vin: &Vin, authorised: bool, reason: String) -> Result<Vehicle, Error> {
        if reason.trim().is_empty() {
            return Err(Error::Invalid("a reason is needed".into()));
        }
        let _deciding = self.decide().await;
        let mut vehicle = self.need_vehicle(vin).await?;
        vehicle.authorised = authorised;
        vehicle.authorised_reason.clone_from(&reason);
        vehicle.rev = vehicle.rev.saturating_add(1);
        let word = if authorised { "authorised" } else { "blocked" };
        let event = self.event(vin, "authorisation", format!("{word}: {reason}"), json!({ "authorised": authorised }));
        let audit = self.audit(actor, word, json!({ "vin": vin, "reason": reason })).await?;
        self.repo.apply(vec![Change::PutVehicle(vehicle.clone()), event, audit]).await?;
        if authorised {
            self.hint(&vehicle);
        }
        Ok(vehicle)
    }

    /// A link for one bundle of what the vehicle has been assigned: target or fallback, and nothing else.
    pub async fn link(&self, device: &str, sha256: Digest) -> Result<LinkAnswer, Error> {
        let vehicle = self.vehicle_of_device(device).await?;
        let bundle = self.repo.bundle_by_sha256(&sha256.to_string()).await?;
        let assignments = self.repo.assignments_of_vehicle(&vehicle.vin).await?;
        let mut parts = assignments.iter().filter(|a| a.state.is_under_way()).flat_map(|a| &a.plan);
        let bundle = bundle.filter(|bundle| parts.any(|part| part.target == bundle.id || part.fallback == bundle.id));
        if bundle.is_none() {
            return Err(Error::Forbidden("not-assigned", "no update of this vehicle needs this file".into()));
        }
        let urls = self.listeners()?;
        let expires = later(self.clock.now(), self.settings.lifetimes.link_secs);
        let sig = self.link_key.sign(&Link { sha256, device, expires });
        self.metrics.links_made.add(1);
        let url = format!("{}/dl/{sha256}?dev={device}&exp={expires}&sig={sig}", urls.public);
        Ok(LinkAnswer { url, expires })
    }

    /// What the broker says of a device: kept on the vehicle, written only when it changes.
    pub async fn presence(&self, device: &str, online: bool) -> Result<(), Error> {
        let _deciding = self.decide().await;
        let Some(mut vehicle) = self.repo.vehicle_by_device(device).await? else { return Ok(()) };
        if vehicle.online == online {
            return Ok(());
        }
        vehicle.online = online;
        vehicle.last_seen = self.clock.now();
        let event = self.event(&vehicle.vin, "presence", if online { "online" } else { "offline" }, json!({}));
        self.repo.apply(vec![Change::PutVehicle(vehicle), event]).await?;
        Ok(())
    }
}

/// One answer to every token that is not good, so that nobody learns which it is.
fn claim_refused() -> Error {
    Error::Forbidden("claim-refused", "the token is unknown, used by another key, expired or another vehicle's".into())
}

fn wrong_request(error: rcgen::Error) -> Error {
    Error::Invalid(format!("certificate request: {error}"))
}
