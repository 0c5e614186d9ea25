//! The demonstration: one campaign updates a whole simulated vehicle on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pitstop_end_to_end::backend::Hosting;
use pitstop_end_to_end::scenario::{self, Answerer, Report, Scenario};
use pitstop_end_to_end::show;
use pitstop_end_to_end::world::{EcuVersion, Options};

/// One campaign updates a vehicle with five control units (a TCU and four ECUs) over the air: real services on a private D-Bus, a real
/// backend and broker, a TPM, simulated control units on simulated buses, real firmware.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// What happens.
    #[arg(long, value_enum, default_value = "happy")]
    scenario: Scenario,
    /// Answers the driver's prompt by itself.
    #[arg(long)]
    auto: bool,
    /// Ends with one JSON line on standard output.
    #[arg(long)]
    json: bool,
    /// Chooses the random points of `power-cut`, and the simulator's noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Speed of the simulated buses, times real time.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    bus_speed: f64,
    /// Where the backend runs: as a program, or out of its container image (made first).
    #[arg(long, value_enum, default_value = "process")]
    backend: Hosting,
    /// Folder for everything it makes; kept. Without it a temporary folder is used and removed.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.1..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.1 to 1000".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One thread: programs are tied to the thread that started them, so that they end with us.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = demonstrate(&arguments) => outcome,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("\nstopped; everything that was started has been ended");
                ExitCode::from(130)
            }
        }
    })
}

async fn demonstrate(arguments: &Arguments) -> ExitCode {
    let options = Options {
        seed: arguments.seed,
        bus_speed: arguments.bus_speed,
        dir: arguments.dir.clone(),
        quiet: false,
        backend: arguments.backend,
        ..Options::default()
    };
    let answerer = if arguments.auto { Answerer::Auto } else { Answerer::Person };
    match scenario::run(arguments.scenario, &options, answerer).await {
        Ok(report) => tell(&report, arguments.json),
        Err(error) => {
            eprintln!("the demonstration failed: {error:#}");
            eprintln!("run it again with --dir FOLDER to keep the logs (FOLDER/log)");
            ExitCode::FAILURE
        }
    }
}

fn tell(report: &Report, as_json: bool) -> ExitCode {
    let row = |id: &str, bus: &str, banks: &str, version: &str| EcuVersion {
        id: id.to_owned(),
        bus: bus.to_owned(),
        banks: banks.to_owned(),
        version: version.to_owned(),
    };
    let before: Vec<_> = report.ecus.iter().map(|e| row(&e.id, &e.bus, &e.banks, &e.before)).collect();
    let after: Vec<_> = report.ecus.iter().map(|e| row(&e.id, &e.bus, &e.banks, &e.after)).collect();
    let text = format!(
        "\n{}\noutcome: {} in {} s, {} restart(s), {} power cut(s)\n{}\n",
        show::table(&before, &after),
        report.outcome,
        report.duration_s,
        report.restarts,
        report.power_cuts,
        show::backend_view(&report.backend)
    );
    if as_json {
        eprint!("{text}");
        println!("{}", serde_json::to_string(report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")));
    } else {
        print!("{text}");
    }
    for refusal in report.refusal.iter().chain(&report.failure) {
        eprintln!("{}: {}", refusal.error, refusal.text);
    }
    for problem in &report.problems {
        eprintln!("PROBLEM: {problem}");
    }
    if report.as_it_should { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
