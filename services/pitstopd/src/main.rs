//! All nine services and two tools in one program: `pitstopd SERVICE [--root DIR]`, or the same under the name `pitstop-SERVICE`.
//!
//! One program because on a TCU both flash and memory are scarce: nine processes share one text, and the parts they have in common
//! (bus, event loop, TLS) are stored once. What a process may do is set by its user, its unit's sandbox and the bus policy, which
//! name the service and not the program.

use std::process::ExitCode;

use pitstop_runtime::Args;

type Main = fn(Args) -> ExitCode;

const SERVICES: &[(&str, &str, Main)] = &[
    ("manager", "runs one vehicle update from decision to end", pitstop_manager::main),
    ("backend-link", "talks to the backend: MQTT, HTTPS, outbox, provisioning", pitstop_backend_link::main),
    ("downloader", "fetches bundles into its cache", pitstop_downloader::main),
    ("validator", "verifies Uptane metadata and bundles, signs manifests", pitstop_validator::main),
    ("hmi", "prompts, answers and notices", pitstop_hmi::main),
    ("flasher", "programs ECUs by UDS over CAN and DoIP", pitstop_flasher::main),
    ("self-update", "the TCU's own slots", pitstop_self_update::main),
    ("uds-server", "the TCU as a diagnostic server", pitstop_uds_server::main),
    ("vehicle-state", "signals, conditions and drive inhibit", pitstop_vehicle_state::main),
    (
        "boot-decision",
        "tool: makes the boot script's decision on a boot environment",
        pitstop_self_update::boot_decision_main,
    ),
    (
        "trial-guard",
        "tool: leaves a slot on trial to the boot loader when its services do not answer",
        pitstop_self_update::trial_guard::main,
    ),
];

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called_as = words.next().unwrap_or_default();
    let name = called_as.rsplit('/').next().unwrap_or_default().strip_prefix("pitstop-").map(str::to_owned);
    let Some(name) = name.or_else(|| words.next()) else { return usage(ExitCode::from(2)) };
    if name == "--help" || name == "-h" {
        return usage(ExitCode::SUCCESS);
    }
    if name == "--version" || name == "-V" {
        println!("pitstopd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let Some((_, _, main)) = SERVICES.iter().find(|(service, ..)| *service == name) else {
        eprintln!("pitstopd: there is no service {name:?}");
        return usage(ExitCode::from(2));
    };
    match Args::parse(words) {
        Ok(args) => main(args),
        Err(error) => {
            eprintln!("pitstopd {name}: {error}");
            ExitCode::from(2)
        }
    }
}

fn usage(status: ExitCode) -> ExitCode {
    println!("usage: pitstopd SERVICE [--root DIR]\n\nservices:");
    for (name, what, _) in SERVICES {
        println!("  {name:<14} {what}");
    }
    println!("\n--root DIR   folder below which configuration, state and sockets lie (default /)");
    println!("The bus is the system bus, or the one DBUS_SYSTEM_BUS_ADDRESS names.");
    status
}
