//! What each target does with the fuzzer's bytes, and from which inputs it begins.
//!
//! A target fails on a panic, on more memory than `cargo xtask fuzz` allows, on too much time, and where what was read does not keep the
//! promise that its assertion names. Each foreign format has one: add a module, a line in [`TARGETS`], and a file in `fuzz_targets/`.

mod boot;
mod bundle;
mod conditions;
mod doip;
mod isotp;
mod script;
mod uds;
mod uptane;
mod vehicle;

use std::path::PathBuf;

/// One format: its name, what is done with an input, and the inputs to begin with.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "boot_environment", run: boot::environment, seeds: boot::seeds },
    Target { name: "bundle_description", run: bundle::description, seeds: bundle::description_seeds },
    Target { name: "bundle_manifest", run: bundle::manifest, seeds: bundle::manifest_seeds },
    Target { name: "bundle_signature", run: bundle::signature, seeds: bundle::signature_seeds },
    Target { name: "can_database", run: conditions::database, seeds: conditions::database_seeds },
    Target { name: "conditions", run: conditions::expression, seeds: conditions::expression_seeds },
    Target { name: "doip_entity", run: doip::entity, seeds: doip::entity_seeds },
    Target { name: "doip_stream", run: doip::stream, seeds: doip::stream_seeds },
    Target { name: "isotp", run: isotp::channel, seeds: isotp::seeds },
    Target { name: "uds_client", run: uds::client, seeds: uds::client_seeds },
    Target { name: "uds_messages", run: uds::messages, seeds: uds::message_seeds },
    Target { name: "uds_server", run: uds::server, seeds: uds::server_seeds },
    Target { name: "uptane_metadata", run: uptane::metadata, seeds: uptane::seeds },
    Target { name: "vehicle_description", run: vehicle::description, seeds: vehicle::seeds },
    Target { name: "workshop_package", run: bundle::package, seeds: bundle::package_seeds },
];

/// The folder into which a target writes the inputs to begin with; libFuzzer is given the same. Without it nothing is written.
const SEEDS: &str = "PITSTOP_FUZZ_SEEDS";

fn find(name: &str) -> &'static Target {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.expect("fuzz_targets/ and TARGETS name the same targets")
}

/// Before libFuzzer reads its folder; called by the files in `fuzz_targets/`.
pub fn begin(name: &str) {
    let Some(folder) = std::env::var_os(SEEDS).map(PathBuf::from) else { return };
    for (number, seed) in (find(name).seeds)().iter().enumerate() {
        std::fs::write(folder.join(number.to_string()), seed).expect("the folder of seeds can be written to");
    }
}

/// Runs one input of a target; called likewise.
pub fn run(name: &str, data: &[u8]) {
    (find(name).run)(data);
}
