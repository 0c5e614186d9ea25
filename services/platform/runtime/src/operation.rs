//! The asking side of `io.pitstop.Ota1.Operation`.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use pitstop_dbus::{OperationProxy, OtaError, interface_name};
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{Connection, ObjectPath, OwnedVariant};

/// How long a silent operation is left alone before it is looked at again: a lost signal costs no more than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How long a service that does not answer is waited for: it is starting, or systemd starts it again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes a call again and again while its error is a temporary one, for a minute: the absence of a service for a moment must not
/// become the end of work that takes minutes. For work, not for calls that somebody waits for.
pub async fn patiently<T, F, Fut>(call: F) -> Result<T, OtaError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, OtaError>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(error) if error.is_temporary() && tokio::time::Instant::now() < deadline => {
                log::debug!("asking again: {error}");
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// An operation's properties at one instant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub state: String,
    pub phase: String,
    pub done: u64,
    pub total: u64,
    pub error_name: String,
    pub error_text: String,
}

/// Result data of an operation that succeeded.
pub type Data = HashMap<String, OwnedVariant>;

/// Waits for the end of an operation of the service `X` (`Flasher`), telling each change to `on_change`.
///
/// Errors: the operation's own named error; `Cancelled`; an error of the bus when the service or the object went away
/// ([`OtaError::is_temporary`]): then the caller makes the same request again.
pub async fn wait(
    bus: &Connection,
    service: &str,
    path: &ObjectPath<'_>,
    mut on_change: impl FnMut(&Snapshot),
) -> Result<Data, OtaError> {
    let properties = PropertiesProxy::builder(bus)
        .destination(pitstop_dbus::bus_name(service))
        .path(path.to_owned())
        .build()
        .await?;
    let mut changes = properties.receive_properties_changed().await?;
    let mut last = Snapshot::default();
    loop {
        let (snapshot, data) = read(&properties).await?;
        if snapshot != last {
            on_change(&snapshot);
            last = snapshot;
        }
        match last.state.as_str() {
            "succeeded" => return Ok(data),
            "failed" => return Err(OtaError::from_name(&last.error_name, last.error_text)),
            "cancelled" => return Err(OtaError::Cancelled(format!("{path} was cancelled"))),
            _ => {}
        }
        // Nothing to do with either: both mean "look again".
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.next()).await;
    }
}

/// Takes the operation's object away after its result was used. One that is gone already is no error.
pub async fn acknowledge(bus: &Connection, service: &str, path: &ObjectPath<'_>) -> Result<(), OtaError> {
    let proxy = OperationProxy::builder(bus)
        .destination(pitstop_dbus::bus_name(service))
        .path(path.to_owned())
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    match proxy.acknowledge().await {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

async fn read(properties: &PropertiesProxy<'_>) -> Result<(Snapshot, Data), OtaError> {
    let name = interface_name("Operation");
    let name = InterfaceName::try_from(name)?;
    let mut all = properties.get_all(name).await.map_err(zbus::Error::from)?;
    let mut text = |key: &str| all.remove(key).and_then(|v| String::try_from(v).ok()).unwrap_or_default();
    let mut snapshot = Snapshot {
        state: text("State"),
        phase: text("Phase"),
        error_name: text("ErrorName"),
        error_text: text("ErrorText"),
        ..Snapshot::default()
    };
    let mut number = |key: &str| all.remove(key).and_then(|v| u64::try_from(v).ok()).unwrap_or_default();
    (snapshot.done, snapshot.total) = (number("Done"), number("Total"));
    let data = all.remove("Result").and_then(|v| Data::try_from(v).ok()).unwrap_or_default();
    Ok((snapshot, data))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_away_for_a_moment_is_waited_for_and_a_refusal_is_not() {
        let tries = Cell::new(0);
        let answer = patiently(|| async {
            tries.set(tries.get() + 1);
            if tries.get() < 20 { Err(OtaError::NotReady("starting".into())) } else { Ok(7) }
        });
        assert_eq!(answer.await, Ok(7));
        let refusal = patiently(|| async { Err::<(), _>(OtaError::NoConsent("no".into())) });
        assert_eq!(refusal.await, Err(OtaError::NoConsent("no".into())));
        let never = patiently(|| async { Err::<(), _>(OtaError::NotReady("gone".into())) });
        assert_eq!(never.await, Err(OtaError::NotReady("gone".into())));
    }
}
