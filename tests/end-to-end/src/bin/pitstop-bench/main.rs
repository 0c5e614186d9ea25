//! Measurements on the whole vehicle: `cargo xtask bench`.

mod rates;
mod status;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Measures the running vehicle. These machines are noisy: look at ratios within one run, not at single times.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_value = "status")]
    what: What,
    /// Ends with one JSON line.
    #[arg(long)]
    json: bool,
    /// Speed of the simulated buses in `status`, times real time.
    #[arg(long, default_value_t = 2.0)]
    bus_speed: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// How fast the manager's status call answers, idle and while an installation runs.
    Status,
    /// Transfer rates on CAN, CAN FD and DoIP at real bus time, against what the bus can carry.
    Rates,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.what {
        What::Status => status::run(&arguments).await,
        What::Rates => rates::run(&arguments).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
