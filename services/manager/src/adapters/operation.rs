use pitstop_dbus::{OperationProxy, OtaError};
use pitstop_runtime::operation::{self, Data};
use zbus::{Connection, OwnedObjectPath};

use crate::ports::{Ended, Receipt};
use crate::tether::Tether;

/// Waits for the end of an operation. When the effect is no longer wanted it is told to stop, and its end is waited
/// for all the same: whoever comes next must not find the ECU busy with it.
pub async fn wait(
    bus: &Connection,
    service: &'static str,
    path: &OwnedObjectPath,
    tether: &Tether,
) -> Result<Data, OtaError> {
    let waiting = operation::wait(bus, service, path, |now| tether.progress(&now.phase, now.done, now.total));
    tokio::pin!(waiting);
    let outcome = tokio::select! {
        outcome = &mut waiting => outcome,
        () = tether.stopped() => {
            cancel(bus, service, path).await;
            waiting.await
        }
    };
    // The object went with its service: the same request makes it again.
    outcome.map_err(|error| if error.is_gone() { OtaError::NotReady(error.text()) } else { error })
}

/// As [`wait`], for an order: the object stays until its result is in the record.
pub async fn carry_out(
    bus: &Connection,
    service: &'static str,
    request: Result<OwnedObjectPath, OtaError>,
    tether: &Tether,
) -> Ended {
    match request {
        Ok(path) => {
            let result = wait(bus, service, &path, tether).await.map(|_| ());
            Ended { result, receipt: Some(Receipt { service, path }) }
        }
        Err(error) => Ended::without_receipt(Err(error)),
    }
}

async fn cancel(bus: &Connection, service: &str, path: &OwnedObjectPath) {
    let cancelled = async {
        let proxy = OperationProxy::builder(bus)
            .destination(pitstop_dbus::bus_name(service))
            .path(path.clone())
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        proxy.cancel().await
    };
    if let Err(error) = cancelled.await {
        log::debug!("cancelling {path}: {}", error.text());
    }
}
