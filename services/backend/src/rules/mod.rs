//! The decisions of campaign management as pure functions: facts in, verdict and reason out.

mod eligibility;
mod gates;
mod progress;

pub use eligibility::{Exclusion, Fitted, plan_update};
pub use gates::{Counts, may_open_next, shut_reason, stop_reason};
pub use progress::{held_up_by, limit_secs, overdue_before, phase_state};
