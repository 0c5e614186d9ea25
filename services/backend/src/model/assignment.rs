use std::fmt;

use pitstop_types::{CampaignId, EcuId, UnixSeconds, UpdateEnd, UpdateId, Vin};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where one vehicle stands in one campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentState {
    /// Its stage is open; offered with the vehicle's next manifest, unless the reason given still stands then.
    Planned,
    /// Not offered, for the reason given, and not waited for; looked at again with every manifest while the campaign runs.
    Excluded,
    /// The Director has signed it for this vehicle.
    Offered,
    Accepted,
    Deferred,
    Downloading,
    Downloaded,
    /// For the driver, the window or the conditions.
    Waiting,
    Installing,
    Rebooting,
    Verifying,
    /// A signed manifest later than the offer equals the assignment.
    Succeeded,
    Failed,
    /// The vehicle says so and a later signed manifest equals the old software.
    RolledBack,
    Declined,
    Refused,
    TimedOut,
    Cancelled,
    Superseded,
}

impl AssignmentState {
    pub const ALL: [Self; 19] = [
        Self::Planned,
        Self::Excluded,
        Self::Offered,
        Self::Accepted,
        Self::Deferred,
        Self::Downloading,
        Self::Downloaded,
        Self::Waiting,
        Self::Installing,
        Self::Rebooting,
        Self::Verifying,
        Self::Succeeded,
        Self::Failed,
        Self::RolledBack,
        Self::Declined,
        Self::Refused,
        Self::TimedOut,
        Self::Cancelled,
        Self::Superseded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Excluded => "excluded",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Waiting => "waiting",
            Self::Installing => "installing",
            Self::Rebooting => "rebooting",
            Self::Verifying => "verifying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Declined => "declined",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }

    /// Has it ended?
    pub fn is_end(self) -> bool {
        matches!(
            self,
            Self::Succeeded
                | Self::Failed
                | Self::RolledBack
                | Self::Declined
                | Self::Refused
                | Self::TimedOut
                | Self::Cancelled
                | Self::Superseded
        )
    }

    /// Does the vehicle hold a signed order for it that has not ended?
    pub fn is_under_way(self) -> bool {
        !self.is_end() && !matches!(self, Self::Planned | Self::Excluded)
    }

    /// May the vehicle have changed an ECU or slot by now?
    pub fn may_have_changed_something(self) -> bool {
        matches!(self, Self::Installing | Self::Rebooting | Self::Verifying)
    }

    /// Does an abort or a withdrawn release end it? What has begun goes on to its end, either way.
    pub fn may_be_recalled(self) -> bool {
        !self.is_end() && !self.may_have_changed_something()
    }

    /// Has the vehicle shown, or may it still show, whether the update is good?
    pub fn tells_of_the_update(self) -> bool {
        !matches!(self, Self::Excluded | Self::Declined | Self::Cancelled | Self::Superseded)
    }

    /// Counts towards a campaign's stop rule.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack | Self::TimedOut | Self::Refused)
    }

    /// May it go from here to `next`? An ended assignment moves only when the truth arrives late: a vehicle that was
    /// given up (or reported failed, then mended) may still prove how it really ended, and is counted as that.
    pub fn may_become(self, next: Self) -> bool {
        if self == next {
            return false;
        }
        match self {
            Self::Planned => {
                matches!(next, Self::Excluded | Self::Offered | Self::TimedOut | Self::Cancelled | Self::Superseded)
            }
            Self::Excluded => matches!(next, Self::Planned | Self::Cancelled),
            Self::TimedOut => next.is_end() && !matches!(next, Self::Cancelled | Self::Superseded),
            Self::Failed | Self::Refused => matches!(next, Self::Succeeded | Self::RolledBack),
            Self::Cancelled => matches!(next, Self::Succeeded | Self::RolledBack | Self::Failed),
            end if end.is_end() => false,
            _ => !matches!(next, Self::Planned | Self::Excluded | Self::Offered),
        }
    }
}

impl fmt::Display for AssignmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One ECU's part of an assignment: bundle ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanPart {
    #[schema(value_type = String)]
    pub ecu: EcuId,
    pub target: String,
    pub fallback: String,
    /// Versions, so that the record can be read by itself.
    pub from_version: String,
    pub to_version: String,
}

/// How the vehicle says it ended; believed for bad news, never for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Claimed {
    #[schema(value_type = String)]
    pub end: UpdateEnd,
    pub error: Option<String>,
    pub text: Option<String>,
    pub at: UnixSeconds,
}

/// One vehicle's part of one campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// The update's id on the vehicle.
    #[schema(value_type = String)]
    pub id: UpdateId,
    #[schema(value_type = String)]
    pub campaign: CampaignId,
    #[schema(value_type = String)]
    pub vin: Vin,
    /// Index of the stage.
    pub stage: u32,
    pub state: AssignmentState,
    /// Why it is in this state.
    pub reason: String,
    /// When it entered the state; of a planned one that had to wait for another update of the vehicle, until when it had to.
    pub since: UnixSeconds,
    /// Since when it counts as a failure, through all states that do.
    #[serde(default)]
    pub failed_at: Option<UnixSeconds>,
    /// What the Director signed; empty before the offer.
    #[serde(default)]
    pub plan: Vec<PlanPart>,
    pub offered_at: Option<UnixSeconds>,
    /// Report counter of the manifest the offer answered: proof is a later one.
    #[serde(default)]
    pub offered_counter: u64,
    pub install_by: Option<UnixSeconds>,
    pub claimed: Option<Claimed>,
    /// Last phase the vehicle named.
    #[serde(default)]
    pub phase: String,
    /// Per ECU, as the vehicle last worded it.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub ecus: Vec<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_final_and_never_skips_the_offer() {
        for next in AssignmentState::ALL {
            assert!(!AssignmentState::Succeeded.may_become(next), "{next}");
        }
        assert!(!AssignmentState::Planned.may_become(AssignmentState::Succeeded));
        assert!(!AssignmentState::Excluded.may_become(AssignmentState::Succeeded));
    }

    #[test]
    fn a_vehicle_given_up_may_still_prove_its_true_end() {
        assert!(AssignmentState::TimedOut.may_become(AssignmentState::Succeeded));
        assert!(AssignmentState::TimedOut.may_become(AssignmentState::RolledBack));
        assert!(!AssignmentState::TimedOut.may_become(AssignmentState::Installing));
    }

    #[test]
    fn names_are_those_of_the_serialised_form() {
        for state in AssignmentState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
