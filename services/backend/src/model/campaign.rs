use std::collections::BTreeSet;

use pitstop_types::{CampaignId, UnixSeconds, Vin};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

/// Longest time between the offer and the start of an installation, in seconds: 30 days, as long as a driver may put it off.
pub const MAX_INSTALL_WITHIN: u64 = 30 * 86_400;
const MAX_STAGES: usize = 32;
const MAX_LIST: usize = 100_000;
const MAX_CONDITIONS: usize = 32;
const MAX_CONDITION_BYTES: usize = 1024;

/// Which vehicles a stage takes, among those of the campaign that no earlier stage took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "by", deny_unknown_fields)]
pub enum Select {
    /// These vehicles.
    List {
        #[schema(value_type = Vec<String>)]
        vins: BTreeSet<Vin>,
    },
    /// Vehicles whose bucket (0 to 99.99 per cent, from a hash of campaign and VIN) lies in `from..to`.
    Percent { from: u8, to: u8 },
}

/// When the next stage may open. A gate that asks for anything needs one success at least, unless its stage has no vehicle at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Proven successes needed; a smaller stage needs all of its vehicles. Those that are excluded, decline, or are cancelled or
    /// superseded are left out.
    pub min_successes: u64,
    /// Successes among successes and failures, in per cent; nothing is looked at before there is one of them.
    pub min_success_percent: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub name: String,
    pub select: Select,
    #[serde(default)]
    pub gate: Gate,
}

/// When to stop by itself: failures among the *finished* (not among all, which would let thousands break first), from a minimum
/// sample on; and an absolute number at which it stops whatever the rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRule {
    /// Pause when failures exceed this share of the finished, in per cent.
    pub max_failure_percent: u8,
    /// The rate is looked at from this many finished vehicles on.
    pub min_finished: u64,
    /// Pause at this many failures at the latest.
    pub max_failures: u64,
}

impl Default for StopRule {
    fn default() -> Self {
        Self { max_failure_percent: 10, min_finished: 10, max_failures: 50 }
    }
}

/// Longest stay in each group of states, in seconds; beyond it the assignment counts as timed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    /// Planned: until the vehicle comes for it. Counts again from a resumption, and from the end of another update of the vehicle.
    pub offer_secs: u64,
    /// Offered to downloaded.
    pub download_secs: u64,
    /// Waiting for driver, window and conditions, and deferred.
    pub wait_secs: u64,
    /// Installing to verifying.
    pub install_secs: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { offer_secs: 14 * 86_400, download_secs: 7 * 86_400, wait_secs: 30 * 86_400, install_secs: 86_400 }
    }
}

/// A daily maintenance window in the vehicle, in the words of the condition language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `HH:MM`, local to `zone`.
    pub from: String,
    pub to: String,
    /// IANA name, e.g. `Europe/Berlin`.
    pub zone: String,
}

/// What an operator orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignSpec {
    pub name: String,
    /// Id of a published release.
    pub release: String,
    /// The campaign's vehicles; the whole fleet if absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub vins: Option<BTreeSet<Vin>>,
    /// One stage with everybody if empty.
    #[serde(default)]
    pub stages: Vec<Stage>,
    #[serde(default)]
    pub stop: StopRule,
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Condition expressions, judged in the vehicle beside its own.
    #[serde(default)]
    pub conditions: Vec<String>,
    #[serde(default)]
    pub window: Option<Window>,
    /// Seconds from the offer until which the update may start without a network; 1 to 2 592 000 (30 days).
    #[serde(default = "default_install_within")]
    pub install_within_secs: u64,
}

fn default_install_within() -> u64 {
    7 * 86_400
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("the campaign has no name")]
    Name,
    #[error("the campaign has {0} stages, at most {MAX_STAGES} are allowed")]
    Stages(usize),
    #[error("stage {0} takes from {1} to {2} per cent; from < to <= 100 is needed")]
    Percent(String, u8, u8),
    #[error("a list of vehicles holds {0}, at most {MAX_LIST} are allowed")]
    List(usize),
    #[error("stage {0} lists a vehicle that is not the campaign's")]
    Foreign(String),
    #[error("a share of {0} per cent is asked for")]
    Share(u8),
    #[error("the stop rule needs max_failures of 1 or more")]
    StopRule,
    #[error("a deadline of 0 seconds")]
    Deadline,
    #[error("install_within_secs is {0}; 1 to {MAX_INSTALL_WITHIN} are allowed")]
    InstallWithin(u64),
    #[error("more than {MAX_CONDITIONS} conditions, or one that is empty or longer than {MAX_CONDITION_BYTES} bytes")]
    Conditions,
    #[error("the window needs from and to as HH:MM and an IANA zone name")]
    Window,
}

impl CampaignSpec {
    /// Refuses an order that makes no sense by itself.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.name.trim().is_empty() || self.name.len() > 200 {
            return Err(SpecError::Name);
        }
        if self.stages.len() > MAX_STAGES {
            return Err(SpecError::Stages(self.stages.len()));
        }
        if let Some(vins) = &self.vins
            && vins.len() > MAX_LIST
        {
            return Err(SpecError::List(vins.len()));
        }
        self.stages.iter().try_for_each(|stage| self.check_stage(stage))?;
        if self.stop.max_failure_percent > 100 {
            return Err(SpecError::Share(self.stop.max_failure_percent));
        }
        if self.stop.max_failures == 0 {
            return Err(SpecError::StopRule);
        }
        let deadlines = &self.deadlines;
        if [deadlines.offer_secs, deadlines.download_secs, deadlines.wait_secs, deadlines.install_secs].contains(&0) {
            return Err(SpecError::Deadline);
        }
        if !(1..=MAX_INSTALL_WITHIN).contains(&self.install_within_secs) {
            return Err(SpecError::InstallWithin(self.install_within_secs));
        }
        let bad = |text: &String| text.trim().is_empty() || text.len() > MAX_CONDITION_BYTES;
        if self.conditions.len() > MAX_CONDITIONS || self.conditions.iter().any(bad) {
            return Err(SpecError::Conditions);
        }
        self.window.as_ref().map_or(Ok(()), Window::check)
    }

    fn check_stage(&self, stage: &Stage) -> Result<(), SpecError> {
        if stage.gate.min_success_percent > 100 {
            return Err(SpecError::Share(stage.gate.min_success_percent));
        }
        match &stage.select {
            Select::Percent { from, to } if from >= to || *to > 100 => {
                Err(SpecError::Percent(stage.name.clone(), *from, *to))
            }
            Select::List { vins } if vins.len() > MAX_LIST => Err(SpecError::List(vins.len())),
            Select::List { vins } => match &self.vins {
                Some(all) if !vins.is_subset(all) => Err(SpecError::Foreign(stage.name.clone())),
                _ => Ok(()),
            },
            Select::Percent { .. } => Ok(()),
        }
    }

    /// The stages, where none are given: one with every vehicle.
    pub fn stages_or_one(&self) -> Vec<Stage> {
        if self.stages.is_empty() {
            vec![Stage { name: "all".into(), select: Select::Percent { from: 0, to: 100 }, gate: Gate::default() }]
        } else {
            self.stages.clone()
        }
    }

    /// The conditions with the window as one of them, as the Director signs them.
    pub fn signed_conditions(&self) -> Vec<String> {
        let mut conditions = self.conditions.clone();
        conditions.extend(self.window.as_ref().map(Window::expression));
        conditions
    }
}

impl Window {
    fn check(&self) -> Result<(), SpecError> {
        let clock = |text: &str| chrono::NaiveTime::parse_from_str(text, "%H:%M").is_ok() && text.len() == 5;
        let zone = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '+' | '-');
        let zone_ok = !self.zone.is_empty() && self.zone.len() <= 64 && self.zone.chars().all(zone);
        if clock(&self.from) && clock(&self.to) && zone_ok { Ok(()) } else { Err(SpecError::Window) }
    }

    fn expression(&self) -> String {
        format!("window(\"{}-{}\", \"{}\")", self.from, self.to, self.zone)
    }
}

/// 0 to 9999, from SHA-256 over campaign and VIN: which bucket a vehicle is in can be computed again by anybody, later.
pub fn bucket(campaign: &CampaignId, vin: &Vin) -> u16 {
    let mut hash = Sha256::new();
    hash.update(campaign.as_str().as_bytes());
    hash.update([0]);
    hash.update(vin.as_str().as_bytes());
    let word = hash.finalize().iter().take(8).fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    u16::try_from(word % 10_000).unwrap_or(0)
}

impl Select {
    /// Does it take this vehicle?
    pub fn takes(&self, campaign: &CampaignId, vin: &Vin) -> bool {
        match self {
            Self::List { vins } => vins.contains(vin),
            Self::Percent { from, to } => {
                (u16::from(*from) * 100..u16::from(*to) * 100).contains(&bucket(campaign, vin))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CampaignState {
    Draft,
    Running,
    /// Nothing new is offered; what has been offered goes on.
    Paused,
    Done,
    /// What had not begun to change a vehicle is cancelled.
    Aborted,
}

impl CampaignState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Draft, Self::Running | Self::Aborted)
                | (Self::Running, Self::Paused | Self::Done | Self::Aborted)
                | (Self::Paused, Self::Running | Self::Aborted)
        )
    }
}

/// An order to many vehicles, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Campaign {
    #[schema(value_type = String)]
    pub id: CampaignId,
    pub spec: CampaignSpec,
    pub state: CampaignState,
    /// Why it is in this state.
    pub reason: String,
    pub created_at: UnixSeconds,
    pub started_at: Option<UnixSeconds>,
    pub ended_at: Option<UnixSeconds>,
    /// How many stages are open.
    pub open_stages: u32,
    /// Failures and finished vehicles the operator had seen when resuming: the stop rule counts from there.
    pub acknowledged_failures: u64,
    pub acknowledged_finished: u64,
    /// When that was.
    #[serde(default)]
    pub resumed_at: Option<UnixSeconds>,
}

impl Campaign {
    /// A failure since `failed_at` has turned out to be none. If the operator had seen it, it is seen no longer: the next one would
    /// otherwise hide behind it from the stop rule. Answers whether something changed.
    pub fn failure_mended(&mut self, failed_at: UnixSeconds) -> bool {
        let seen = self.acknowledged_failures > 0 && self.resumed_at.is_none_or(|resumed_at| failed_at <= resumed_at);
        if seen {
            self.acknowledged_failures = self.acknowledged_failures.saturating_sub(1);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> CampaignId {
        CampaignId::new("c-1").unwrap()
    }

    #[test]
    fn buckets_spread_a_fleet_evenly_enough() {
        let select = Select::Percent { from: 0, to: 10 };
        let taken =
            (0..10_000).filter(|n| select.takes(&id(), &Vin::new(format!("WP0ZZZ99ZTS{n:06}")).unwrap())).count();
        assert!((850..1150).contains(&taken), "{taken}");
    }

    proptest! {
        #[test]
        fn every_vehicle_is_in_exactly_one_of_adjoining_stages(n in 0_u32..1_000_000, cut in 1_u8..100) {
            let vin = Vin::new(format!("WP0ZZZ99ZTS{n:06}")).unwrap();
            let (a, b) = (Select::Percent { from: 0, to: cut }, Select::Percent { from: cut, to: 100 });
            prop_assert!(a.takes(&id(), &vin) != b.takes(&id(), &vin));
        }
    }

    #[test]
    fn only_a_failure_that_the_operator_had_seen_is_seen_no_longer_when_it_is_mended() {
        let mut campaign = Campaign {
            id: id(),
            spec: serde_json::from_str(r#"{"name":"x","release":"r"}"#).unwrap(),
            state: CampaignState::Running,
            reason: String::new(),
            created_at: 0,
            started_at: None,
            ended_at: None,
            open_stages: 1,
            acknowledged_failures: 1,
            acknowledged_finished: 1,
            resumed_at: Some(100),
        };
        assert!(!campaign.failure_mended(101), "it failed after that");
        assert!(campaign.failure_mended(100));
        assert_eq!(campaign.acknowledged_failures, 0);
        assert!(!campaign.failure_mended(100), "no more had been seen");
    }

    #[test]
    fn an_order_that_makes_no_sense_is_refused() {
        let good: CampaignSpec = serde_json::from_str(r#"{"name":"x","release":"r"}"#).unwrap();
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.stages_or_one().len(), 1);
        let stage = |from, to| Stage { name: "s".into(), select: Select::Percent { from, to }, gate: Gate::default() };
        assert!(CampaignSpec { stages: vec![stage(10, 10)], ..good.clone() }.check().is_err());
        assert!(CampaignSpec { stages: vec![stage(0, 101)], ..good.clone() }.check().is_err());
        assert!(CampaignSpec { install_within_secs: MAX_INSTALL_WITHIN + 1, ..good.clone() }.check().is_err());
        assert!(CampaignSpec { conditions: vec![" ".into()], ..good.clone() }.check().is_err());
        let zone = Window { from: "22:00".into(), to: "5:00".into(), zone: "Europe/Berlin".into() };
        assert!(CampaignSpec { window: Some(zone), ..good.clone() }.check().is_err());
        assert!(serde_json::from_str::<CampaignSpec>(r#"{"name":"x","release":"r","stagess":[]}"#).is_err());
    }
}
