//! Calls the services as one of their users would, and as one that has gone wrong might: for the tests of bad calls.
//!
//! The bus knows a caller by its process, so a test starts this under the user whose rights it wants. It prints one JSON value:
//! `{"ok":...}`, or the error by the name that went over the bus: `{"error":...,"text":...}`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pitstop_dbus::access::{Access, TABLE};
use pitstop_dbus::{BackendLinkProxy, DownloaderProxy, FlasherProxy, OtaError, ValidatorProxy, WorkshopProxy};
use pitstop_runtime::operation::wait;
use serde_json::{Value, json};
use zbus::{Connection, DBusError as _, ObjectPath};

/// A refusal takes no time; whoever goes on trying for so long does not refuse.
const LIMIT: Duration = Duration::from_secs(20);

/// Calls services of the update stack.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// A member without arguments.
    Member {
        service: String,
        member: String,
        /// Where it is not the service's own.
        #[arg(long)]
        interface: Option<String>,
    },
    /// What a diagnostic server that has gone wrong might try, with the id of an update that is under way over the air.
    Diagnose {
        update: String,
    },
    /// Every member with arguments that this caller of the access table may call, each with arguments of a wrong type.
    Malformed {
        caller: String,
    },
    /// What the manager does until there is a decision: manifest, Director, verification.
    Decide,
    Stage {
        update: String,
        ecu: String,
    },
    Fetch {
        update: String,
        sha256: String,
        length: u64,
    },
    Admit {
        update: String,
        ecu: String,
        role: String,
        bundle: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let answer = tokio::time::timeout(LIMIT, run(Arguments::parse().call)).await;
    let answer = match answer.unwrap_or_else(|_| Err(OtaError::Slow(format!("no end within {} s", LIMIT.as_secs())))) {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": name(&error), "text": error.text() }),
    };
    println!("{answer}");
    ExitCode::SUCCESS
}

/// The name that went over the bus.
fn name(error: &OtaError) -> String {
    match error {
        OtaError::Bus(zbus::Error::MethodError(name, _, _)) => name.to_string(),
        OtaError::Bus(zbus::Error::FDO(error)) => error.name().to_string(),
        OtaError::Bus(other) => other.to_string(),
        named => named.full_name(),
    }
}

async fn run(call: Call) -> Result<Value, OtaError> {
    let bus = zbus::connection::Builder::system().build().await?;
    match call {
        Call::Member { service, member, interface } => {
            plain(&bus, &service, interface.as_ref().unwrap_or(&service), &member, &()).await?;
            Ok(Value::Null)
        }
        Call::Diagnose { update } => diagnose(&bus, &update).await,
        Call::Malformed { caller } => malformed(&bus, &caller).await,
        Call::Decide => decide(&bus).await,
        Call::Stage { update, ecu } => {
            let operation = FlasherProxy::new(&bus).await?.stage(&update, &ecu, "1.0.0", 1).await?;
            end(&bus, "Flasher", &operation).await
        }
        Call::Fetch { update, sha256, length } => {
            let operation = DownloaderProxy::new(&bus).await?.fetch(&update, &sha256, length).await?;
            end(&bus, "Downloader", &operation).await
        }
        Call::Admit { update, ecu, role, bundle } => {
            let file = File::open(&bundle).map_err(|e| OtaError::NotFound(format!("{}: {e}", bundle.display())))?;
            let bundle = OwnedFd::from(file).into();
            let operation = ValidatorProxy::new(&bus).await?.admit(&update, &ecu, &role, bundle).await?;
            end(&bus, "Validator", &operation).await
        }
    }
}

/// Which error each try ended with.
async fn diagnose(bus: &Connection, update: &str) -> Result<Value, OtaError> {
    let (slots, validator) = (WorkshopProxy::new(bus).await?, ValidatorProxy::new(bus).await?);
    let staged = match slots.stage("w-of-its-own", 1).await {
        Ok(operation) => end(bus, "SelfUpdate", &operation).await.map(drop),
        Err(error) => Err(error),
    };
    let tries = [
        ("stage what nobody admitted", staged),
        ("restart", slots.reboot("w-of-its-own").await),
        ("activate", slots.activate("w-of-its-own").await),
        ("commit the other path's update", slots.commit(update).await),
        ("roll the other path's update back", slots.roll_back(update).await.map(drop)),
        ("raise floors for the other path's update", validator.end_local(update, true).await),
        ("bring ten gigabytes", validator.receive_local(10_000_000_000).await.map(drop)),
    ];
    let told = tries.map(|(what, result)| (what.to_owned(), json!(result.err().map(|error| name(&error)))));
    Ok(Value::Object(told.into_iter().collect()))
}

async fn end(bus: &Connection, service: &str, operation: &ObjectPath<'_>) -> Result<Value, OtaError> {
    wait(bus, service, operation, |_| {}).await?;
    Ok(Value::Null)
}

async fn decide(bus: &Connection) -> Result<Value, OtaError> {
    let validator = ValidatorProxy::new(bus).await?;
    let manifest = validator.collect_manifest("").await?;
    BackendLinkProxy::new(bus).await?.send_manifest(&manifest).await?;
    let operation = validator.verify().await?;
    let result = wait(bus, "Validator", &operation, |_| {}).await?;
    let update = result.get("update").and_then(|value| <&str>::try_from(&**value).ok()).unwrap_or_default();
    Ok(json!(update))
}

/// Which error each call ended with.
async fn malformed(bus: &Connection, caller: &str) -> Result<Value, OtaError> {
    let table = Access::parse(TABLE).map_err(|e| OtaError::Internal(e.to_string()))?;
    let mut found = Vec::new();
    for row in table.allow.iter().filter(|row| row.service == row.interface && row.callers.iter().any(|c| c == caller))
    {
        for member in row.members.iter().filter(|member| takes_arguments(&row.service, member)) {
            // No member takes a number with a fraction.
            let error = plain(bus, &row.service, &row.interface, member, &(0.5_f64,)).await.err();
            let error = error.as_ref().map_or_else(|| "none".to_owned(), name);
            found.push(json!({ "service": row.service, "member": member, "error": error }));
        }
    }
    Ok(Value::Array(found))
}

fn takes_arguments(service: &str, member: &str) -> bool {
    let xml = pitstop_dbus::xml(&pitstop_dbus::interface_name(service)).unwrap_or_default();
    let definition = xml.split_once(&format!("<method name=\"{member}\">")).map_or("", |(_, rest)| rest);
    definition.split("</method>").next().is_some_and(|definition| definition.contains("direction=\"in\""))
}

async fn plain<B>(bus: &Connection, service: &str, interface: &str, member: &str, body: &B) -> Result<(), OtaError>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    let (name, path) = (pitstop_dbus::bus_name(service), pitstop_dbus::object_path(service));
    let interface = pitstop_dbus::interface_name(interface);
    bus.call_method(Some(name), path, Some(interface), member, body).await?;
    Ok(())
}
