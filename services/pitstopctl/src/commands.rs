use std::io::IsTerminal as _;
use std::time::Duration;

use pitstop_dbus::{
    BackendLinkProxy, EcuDescription, EcuVersions, FlasherProxy, ManagerProxy, OtaError, SelfUpdateProxy,
    VehicleStateProxy,
};
use pitstop_runtime::operation;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedVariant};

use crate::cli::{Cli, Command};
use crate::error::CtlError;
use crate::view::{self, Done, List, View};
use crate::{evidence, prompts, time, watch};

/// How long one answer may take. Reading the versions of all ECUs is the slowest: some seconds with one that does not answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the parts of a status may take that are not the manager's: a service that hangs must not hide the others.
const SIDE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a command; what it returns is to be printed.
pub async fn run(cli: Cli) -> Result<String, CtlError> {
    let bus = connect(cli.address.as_deref()).await?;
    let show = Show { json: cli.json };
    match cli.command {
        Command::Status => show.view(&status(&bus).await?),
        Command::Check { wait } => check(&bus, show, wait).await,
        Command::Ecus => show.view(&List(ecus(&bus).await?)),
        Command::Slots => {
            show.view(&List(self_update(&bus).await?.get_slots().await.map_err(CtlError::of_call("SelfUpdate"))?))
        }
        Command::Prompt => show.view(&List(prompts::open(&bus).await?)),
        Command::Approve(which) => answer(&bus, show, which.update, "now", 0).await,
        Command::Defer(which) => answer(&bus, show, which.update, "later", 0).await,
        Command::Decline(which) => answer(&bus, show, which.update, "no", 0).await,
        Command::Schedule { time, zone, which } => {
            let now = pitstop_runtime::wall_clock()
                .ok_or_else(|| CtlError::Usage("this computer's clock is not set".to_owned()))?;
            let at = time::parse(&time, zone.as_deref(), now).map_err(CtlError::Usage)?;
            answer(&bus, show, which.update, "at", at).await
        }
        Command::Cancel => {
            manager(&bus).await?.cancel().await.map_err(CtlError::of_call("Manager"))?;
            show.view(&Done {
                done: "cancel",
                update: String::new(),
                text: "Cancelling; see 'pitstopctl watch'.".to_owned(),
            })
        }
        Command::History { verify: true, .. } => {
            show.view(&evidence::check(&evidence::fetch(&manager(&bus).await?).await?)?)
        }
        Command::History { export: true, .. } => Ok(evidence::fetch(&manager(&bus).await?).await?.join("\n")),
        Command::History { limit, refusals, .. } => history(&bus, show, limit, refusals).await,
        Command::Signals { filter } => show.view(&List(signals(&bus, filter.as_deref()).await?)),
        Command::Conditions { conditions } => {
            let results =
                vehicle_state(&bus).await?.evaluate(&conditions).await.map_err(CtlError::of_call("VehicleState"))?;
            show.view(&List(results))
        }
        Command::Watch => follow(&bus, show, None).await,
        Command::Notices => show.view(&List(prompts::notices(&bus).await?)),
        Command::Ack(which) => {
            let update = prompts::acknowledge(&bus, which.update.as_deref()).await?;
            show.view(&Done { done: "ack", text: format!("Notice of update {update} acknowledged."), update })
        }
        Command::Provision { token } => provision(&bus, show, token).await,
    }
}

/// Text or JSON.
#[derive(Clone, Copy)]
struct Show {
    json: bool,
}

impl Show {
    fn view(self, view: &impl View) -> Result<String, CtlError> {
        if !self.json {
            return Ok(view.human());
        }
        serde_json::to_string(view).map_err(|cause| CtlError::Refused(OtaError::Internal(cause.to_string())))
    }
}

async fn connect(address: Option<&str>) -> Result<Connection, CtlError> {
    use zbus::connection::Builder;
    let shown = address.unwrap_or("the system bus").to_owned();
    let builder = match address {
        Some(address) => Builder::address(address),
        None => Builder::system(),
    };
    builder.method_timeout(CALL_TIMEOUT).build().await.map_err(|cause| CtlError::NoBus { address: shown, cause })
}

/// Only the manager must answer: a picture with gaps helps more than none when something is broken.
async fn status(bus: &Connection) -> Result<view::Status, CtlError> {
    let backend = async { BackendLinkProxy::new(bus).await.ok()?.get_status().await.ok() };
    let inhibit = async { vehicle_state(bus).await.ok()?.inhibit().await.ok() };
    let open_prompts = async { prompts::count(bus).await.ok() };
    let (main, backend, inhibit, open_prompts) = tokio::join!(
        async { manager(bus).await?.get_status().await.map_err(CtlError::of_call("Manager")) },
        soon(backend),
        soon(inhibit),
        soon(open_prompts)
    );
    let (update, steps) = main?;
    Ok(view::Status { update, steps, backend, inhibit, open_prompts })
}

/// A gap where there is no answer in time.
async fn soon<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(SIDE_TIMEOUT, answer).await.ok().flatten()
}

async fn check(bus: &Connection, show: Show, wait: bool) -> Result<String, CtlError> {
    let path = manager(bus).await?.check().await.map_err(CtlError::of_call("Manager"))?;
    let result = operation::wait(bus, "Manager", &path, |_| {}).await;
    let _ = operation::acknowledge(bus, "Manager", &path).await;
    let update = text_of(result.map_err(CtlError::of_call("Manager"))?.get("update"));
    match (update.is_empty(), wait) {
        (true, _) => {
            let text = "Everything is as the backend wants it.".to_owned();
            show.view(&Done { done: "check", update, text })
        }
        (false, true) => follow(bus, show, Some(update)).await,
        (false, false) => {
            let text = format!("Update {update} has begun; see 'pitstopctl watch'.");
            show.view(&Done { done: "check", update, text })
        }
    }
}

async fn ecus(bus: &Connection) -> Result<Vec<view::Ecu>, CtlError> {
    let flasher = FlasherProxy::new(bus).await.map_err(CtlError::of_read("Flasher"))?;
    let list = flasher.list_ecus().await.map_err(CtlError::of_call("Flasher"))?;
    let names: Vec<String> = list.iter().map(|ecu| ecu.ecu.clone()).collect();
    let versions = flasher.read_versions(&names).await.map_err(CtlError::of_call("Flasher"))?;
    let mut found = vec![tcu(bus).await];
    for description in list {
        let read = versions.iter().find(|read| read.ecu == description.ecu).cloned().unwrap_or_default();
        let EcuVersions { version, software_number, serial, error_name, .. } = read;
        found.push(view::Ecu { description, version, software_number, serial, error: error_name });
    }
    Ok(found)
}

/// The TCU itself, as its booted slot tells.
async fn tcu(bus: &Connection) -> view::Ecu {
    let slots = async { self_update(bus).await?.get_slots().await.map_err(CtlError::of_call("SelfUpdate")) };
    let (version, hardware, error) = match slots.await {
        Ok(slots) => match slots.into_iter().find(|slot| slot.booted) {
            Some(slot) => (slot.version, slot.hardware, String::new()),
            None => (String::new(), String::new(), "NotFound".to_owned()),
        },
        Err(error) => (String::new(), String::new(), error.to_string()),
    };
    let description =
        EcuDescription { ecu: "tcu".to_owned(), banks: "dual".to_owned(), hardware, ..EcuDescription::default() };
    view::Ecu { description, version, software_number: String::new(), serial: String::new(), error }
}

async fn answer(
    bus: &Connection,
    show: Show,
    update: Option<String>,
    choice: &'static str,
    at: i64,
) -> Result<String, CtlError> {
    let update = prompts::answer(bus, update.as_deref(), choice, at).await?;
    let (done, text) = match choice {
        "now" => ("approve", format!("Update {update} starts as soon as the vehicle allows; see 'pitstopctl status'.")),
        "at" => ("schedule", format!("Update {update} starts at {}, once the vehicle allows.", time::show(at))),
        "later" => ("defer", format!("Update {update} is put off; it will be asked about again.")),
        _ => ("decline", format!("Update {update} is declined.")),
    };
    show.view(&Done { done, update, text })
}

async fn history(bus: &Connection, show: Show, limit: u32, refusals: bool) -> Result<String, CtlError> {
    let manager = manager(bus).await?;
    if refusals {
        return show.view(&List(manager.get_refusals(limit).await.map_err(CtlError::of_call("Manager"))?));
    }
    show.view(&List(manager.get_history(limit).await.map_err(CtlError::of_call("Manager"))?))
}

async fn signals(bus: &Connection, filter: Option<&str>) -> Result<Vec<view::Signal>, CtlError> {
    let all = vehicle_state(bus).await?.get_signals().await.map_err(CtlError::of_call("VehicleState"))?;
    let wanted = all.into_iter().filter(|signal| filter.is_none_or(|filter| signal.name.contains(filter)));
    let view = wanted.map(|signal| view::Signal {
        value: json_of(&signal.value),
        age_ms: (signal.age_ms >= 0).then_some(signal.age_ms),
        fresh: signal.fresh,
        name: signal.name,
    });
    Ok(view.collect())
}

async fn provision(bus: &Connection, show: Show, token: String) -> Result<String, CtlError> {
    let token = if token == "-" { read_token()? } else { token };
    let link = BackendLinkProxy::new(bus).await.map_err(CtlError::of_read("BackendLink"))?;
    let path = link.provision(token.trim()).await.map_err(CtlError::of_call("BackendLink"))?;
    let result = operation::wait(bus, "BackendLink", &path, |_| {}).await;
    let _ = operation::acknowledge(bus, "BackendLink", &path).await;
    let device = text_of(result.map_err(CtlError::of_call("BackendLink"))?.get("device"));
    if show.json {
        return Ok(serde_json::json!({"done": "provision", "device": device}).to_string());
    }
    Ok(format!("This vehicle is now device {device}.\n"))
}

/// A token on standard input does not stand in the process list.
fn read_token() -> Result<String, CtlError> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|cause| CtlError::Usage(format!("reading the token: {cause}")))?;
    Ok(line)
}

/// Follows the update named, or the running or next one.
async fn follow(bus: &Connection, show: Show, update: Option<String>) -> Result<String, CtlError> {
    let printer = match (show.json, std::io::stderr().is_terminal()) {
        (true, _) => watch::Printer::json(),
        (false, true) => watch::Printer::bars(),
        (false, false) => watch::Printer::lines(),
    };
    watch::follow(&manager(bus).await?, update, printer).await?;
    Ok(String::new())
}

fn text_of(value: Option<&OwnedVariant>) -> String {
    value.and_then(|value| String::try_from(value.clone()).ok()).unwrap_or_default()
}

/// Numbers, truth values and texts; nothing else is a signal's value.
fn json_of(value: &OwnedVariant) -> serde_json::Value {
    if let Ok(number) = f64::try_from(value.clone()) {
        return serde_json::json!((number * 1e6).round() / 1e6);
    }
    if let Ok(truth) = bool::try_from(value.clone()) {
        return truth.into();
    }
    String::try_from(value.clone()).map_or(serde_json::Value::Null, Into::into)
}

async fn manager(bus: &Connection) -> Result<ManagerProxy<'static>, CtlError> {
    ManagerProxy::new(bus).await.map_err(CtlError::of_read("Manager"))
}

async fn self_update(bus: &Connection) -> Result<SelfUpdateProxy<'static>, CtlError> {
    SelfUpdateProxy::new(bus).await.map_err(CtlError::of_read("SelfUpdate"))
}

async fn vehicle_state(bus: &Connection) -> Result<VehicleStateProxy<'static>, CtlError> {
    // One property is read once: a cache would cost more calls.
    let builder = VehicleStateProxy::builder(bus).cache_properties(CacheProperties::No);
    builder.build().await.map_err(CtlError::of_read("VehicleState"))
}
