//! `pitstop-backend`: makes a backend, serves it, and makes provisioning tokens.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pitstop_backend::backend::Backend;
use pitstop_backend::clock::Clock;
use pitstop_backend::error::Error;
use pitstop_backend::init::{InitOptions, init};
use pitstop_backend::offline::PackageOptions;
use pitstop_backend::serve::serve;
use pitstop_backend::settings::{DataDir, Settings};
use pitstop_backend::vehicles::RegisterVehicle;
use pitstop_types::Vin;

const EXIT_STATUSES: &str = "\
Exit statuses:
  0  done; for serve: ended by SIGTERM or Ctrl-C
  1  it failed; the reason is on standard error
  2  the command line is wrong

With --json a reason is also on standard output, as one line {\"error\":{\"name\",\"text\"}}.";

#[derive(Parser)]
#[command(
    name = "pitstop-backend",
    version,
    about = "Backend of the Pitstop over-the-air update stack",
    after_help = EXIT_STATUSES
)]
struct Cli {
    /// Write results as one line of JSON, errors too.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new backend: keys, certificates, roots, configuration, the broker's configuration.
    Init(InitArgs),
    /// Serve until SIGTERM. Prints one JSON line with the addresses when ready.
    Serve(ServeArgs),
    /// Register a vehicle, if it is new, and make a one-time provisioning token; also while the backend serves.
    Claim {
        #[arg(long, env = "PITSTOP_BACKEND_DIR")]
        dir: PathBuf,
        /// Vehicle identification number, 17 characters.
        #[arg(long)]
        vin: Vin,
    },
    /// Make a package by which a workshop updates the TCU without a network; also while the backend serves.
    OfflinePackage(PackageArgs),
    /// Print the OpenAPI document of the operators' interface.
    Openapi,
}

#[derive(Args)]
struct InitArgs {
    /// Data folder; made if absent.
    #[arg(long, env = "PITSTOP_BACKEND_DIR")]
    dir: PathBuf,
    /// Name or address in the server certificates; the first goes into URLs. Give it once per name.
    #[arg(long, default_value = "127.0.0.1")]
    host: Vec<String>,
    #[arg(long, default_value = "127.0.0.1:0")]
    public: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:0")]
    device: SocketAddr,
    /// Plain HTTP: keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// Broker as vehicles reach it; the first --host if absent.
    #[arg(long)]
    mqtt_host: Option<String>,
    #[arg(long, default_value_t = 8883)]
    mqtt_port: u16,
    /// Address the broker listens on; the broker's host if absent.
    #[arg(long)]
    mqtt_bind: Option<String>,
    /// User the broker runs as when started as root; you, if absent. Given as root, it gets the broker's folder.
    #[arg(long)]
    broker_user: Option<String>,
    /// PEM file with the certificates under which bundles are signed. Later: put it at DIR/keyring.pem.
    #[arg(long)]
    keyring: Option<PathBuf>,
}

#[derive(Args)]
struct PackageArgs {
    #[arg(long, env = "PITSTOP_BACKEND_DIR")]
    dir: PathBuf,
    /// Id of a published release that has a bundle for the TCU.
    #[arg(long)]
    release: String,
    /// Folder with director-offline-snapshot.pem and director-offline-targets.pem.
    #[arg(long)]
    keys: PathBuf,
    /// For this vehicle alone; for every one with the bundle's hardware if absent.
    #[arg(long)]
    vin: Option<Vin>,
    /// Days it is good for.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=90))]
    days: u32,
    /// The package to write.
    #[arg(long, short, value_name = "FILE.tar")]
    out: PathBuf,
}

#[derive(Args)]
struct ServeArgs {
    #[arg(long, env = "PITSTOP_BACKEND_DIR")]
    dir: PathBuf,
    /// Instead of the configured address.
    #[arg(long, env = "PITSTOP_BACKEND_PUBLIC")]
    public: Option<SocketAddr>,
    #[arg(long, env = "PITSTOP_BACKEND_DEVICE")]
    device: Option<SocketAddr>,
    #[arg(long, env = "PITSTOP_BACKEND_ADMIN")]
    admin: Option<SocketAddr>,
    /// Serve without a broker: vehicles poll.
    #[arg(long)]
    no_mqtt: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => {
            if wrong.use_stderr() && asks_for_json(std::env::args_os().skip(1)) {
                println!("{}", error_line("Usage", &usage(&wrong)));
            }
            // Says it in clap's own words; help and version too, which are no errors.
            wrong.exit()
        }
    };
    log_to_stderr();
    let json = cli.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pitstop-backend: {error:#}");
            if json {
                println!("{}", error_line(&error_name(&error), &format!("{error:#}")));
            }
            ExitCode::FAILURE
        }
    }
}

/// An error for programs.
fn error_line(name: &str, text: &str) -> String {
    serde_json::json!({ "error": { "name": name, "text": text } }).to_string()
}

/// The code of the operators' interface in the form that names have on command lines (`not-found` is `NotFound`); `Failed` for an error
/// that has no code there.
fn error_name(error: &anyhow::Error) -> String {
    let Some(error) = error.downcast_ref::<Error>() else { return "Failed".to_owned() };
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    error.code().split('-').map(capital).collect()
}

/// Whether JSON is asked for in a command line that is wrong in some other place, so that nothing else of it can be told.
fn asks_for_json(words: impl IntoIterator<Item = OsString>) -> bool {
    words.into_iter().take_while(|word| word != "--").any(|word| word == "--json")
}

/// clap's reason in one line, without its tips.
fn usage(wrong: &clap::Error) -> String {
    let text = wrong.render().to_string();
    let reason = text.split("\n\n").next().unwrap_or_default();
    reason.split_whitespace().skip_while(|word| *word == "error:").collect::<Vec<_>>().join(" ")
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Init(args) => run_init(cli.json, args),
        Command::Serve(args) => run_serve(args),
        Command::Claim { dir, vin } => run_claim(cli.json, dir, vin),
        Command::OfflinePackage(args) => run_package(cli.json, args),
        Command::Openapi => {
            let document = pitstop_backend::http::openapi();
            let print = if cli.json { serde_json::to_string } else { serde_json::to_string_pretty };
            println!("{}", print(&document)?);
            Ok(())
        }
    }
}

fn run_init(json: bool, args: InitArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(&args.dir);
    let first = args.host.first().cloned().unwrap_or_default();
    let mqtt_host = args.mqtt_host.unwrap_or(first);
    let options = InitOptions {
        hosts: args.host,
        public: args.public,
        device: args.device,
        admin: args.admin,
        mqtt_bind: args.mqtt_bind.unwrap_or_else(|| mqtt_host.clone()),
        mqtt_host,
        mqtt_port: args.mqtt_port,
        broker_user: args.broker_user,
        keyring: args.keyring,
    };
    init(&dir, &options, &Clock::System)?;
    if json {
        let broker = dir.broker().join("mosquitto.conf");
        println!(
            "{}",
            serde_json::json!({ "dir": dir.path(), "config": dir.config(), "broker": broker, "root_keys": dir.offline_keys() })
        );
    } else {
        println!("Backend made in {}.", dir.path().display());
        println!("Take {} away: the backend does not need it.", dir.offline_keys().display());
    }
    Ok(())
}

fn run_serve(args: ServeArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(&args.dir);
    let mut settings = Settings::load(&dir)?;
    let listen = &mut settings.listen;
    listen.public = args.public.unwrap_or(listen.public);
    listen.device = args.device.unwrap_or(listen.device);
    listen.admin = args.admin.unwrap_or(listen.admin);
    settings.mqtt.enabled &= !args.no_mqtt;
    if !settings.listen.admin.ip().is_loopback() {
        log::warn!("the operators' interface listens on {} without TLS", settings.listen.admin);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(dir, settings, |ready| {
        // The demonstration and container checks wait for this line.
        println!("{}", serde_json::to_string(ready).unwrap_or_default());
    }))?;
    Ok(())
}

fn run_claim(json: bool, dir: PathBuf, vin: Vin) -> anyhow::Result<()> {
    let dir = DataDir::new(dir);
    let settings = Settings::load(&dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let claim = runtime.block_on(async {
        let (backend, _hints) = Backend::open(dir, settings, Clock::System).await?;
        backend.register("command line", RegisterVehicle { vin, ecus: Vec::new() }).await
    });
    let claim = claim.context("making a token")?;
    if json {
        println!("{}", serde_json::to_string(&claim)?);
    } else {
        println!("{}", claim.claim_token);
    }
    Ok(())
}

fn run_package(json: bool, args: PackageArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(args.dir);
    let settings = Settings::load(&dir)?;
    let options = PackageOptions {
        release: args.release,
        keys: args.keys,
        vin: args.vin,
        lifetime_secs: u64::from(args.days) * 86_400,
        out: args.out,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let package = runtime.block_on(async {
        let (backend, _hints) = Backend::open(dir, settings, Clock::System).await?;
        backend.offline_package(&options).await
    });
    let package = package.context("making the package")?;
    if json {
        println!("{}", serde_json::to_string(&package)?);
    } else {
        println!(
            "{}: {} bytes, update {} to {}",
            package.file.display(),
            package.length,
            package.update,
            package.version
        );
    }
    Ok(())
}

/// One line per record on stderr; `PITSTOP_LOG` takes off, error, warn, info (default), debug or trace.
fn log_to_stderr() {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            // The libraries' own chatter is for those who debug them.
            metadata.target().starts_with("pitstop") || metadata.level() <= log::Level::Warn
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                eprintln!("{:5} {}: {}", record.level(), record.target(), record.args());
            }
        }
        fn flush(&self) {}
    }
    let level = std::env::var("PITSTOP_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(log::LevelFilter::Info);
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn an_error_for_programs_has_a_name_and_is_one_line() {
        let missing = anyhow::Error::new(Error::NotFound("release")).context("making the package");
        assert_eq!(error_name(&missing), "NotFound");
        assert_eq!(
            error_line(&error_name(&missing), &format!("{missing:#}")),
            r#"{"error":{"name":"NotFound","text":"making the package: there is no such release"}}"#
        );
        let other = anyhow::anyhow!("two\nlines");
        assert_eq!(error_name(&other), "Failed");
        assert_eq!(error_line("Failed", &other.to_string()).lines().count(), 1);
    }

    #[test]
    fn a_wrong_command_line_has_its_reason_in_one_line() {
        let words = ["openapi", "--json", "--nonsense"];
        let wrong = Cli::try_parse_from(["pitstop-backend"].iter().chain(&words)).err().unwrap();
        assert!(wrong.use_stderr() && asks_for_json(words.map(OsString::from)));
        assert_eq!(usage(&wrong), "unexpected argument '--nonsense' found");
        assert!(!asks_for_json(["openapi", "--", "--json"].map(OsString::from)));
    }

    #[test]
    fn the_help_tells_the_exit_statuses() {
        let help = Cli::command().render_help().to_string();
        assert!(["  0  ", "  1  ", "  2  "].iter().all(|status| help.contains(status)), "{help}");
    }
}
