//! Where what the flasher needs really comes from: one file per thing.

mod bundles;
mod keys;
mod links;
mod safety;
mod times;

pub use bundles::{ValidatorBundles, open_software};
pub use keys::FileKeys;
pub use links::CanLinks;
pub use safety::BusSafety;
pub use times::Times;
