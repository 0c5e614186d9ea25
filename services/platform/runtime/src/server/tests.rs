use super::*;
use crate::{operation, testing};
use futures_util::StreamExt;
use pitstop_store::cut::Disk;

fn key(ecu: &str, attempt: u32) -> Key {
    Key { kind: "stage".into(), update: "u-1".into(), ecu: ecu.into(), attempt }
}

async fn started(disk: &Disk, key: Key, outcome: Result<ResultData, OtaError>) -> Result<operation::Data, OtaError> {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Flasher", Arc::new(disk.storage())).await.unwrap();
    let path = operations
        .start(key, Durability::Durable, None, |handle| async move {
            handle.phase("erasing").await;
            handle.progress(1, 2).await;
            outcome
        })
        .await
        .unwrap();
    operation::wait(&client, "Flasher", &path, |_| {}).await
}

#[tokio::test]
async fn a_result_outlives_the_service_and_the_work_is_not_done_again() {
    let disk = Disk::new();
    let good = ResultData::from([("bytes".to_owned(), 7.into())]);
    let first = started(&disk, key("bcm", 1), Ok(good)).await.unwrap();
    assert_eq!(u64::try_from(first["bytes"].clone()).unwrap(), 7);
    // Another life: the work given would fail, but is not started.
    let again = started(&disk, key("bcm", 1), Err(OtaError::Internal("started again".into()))).await.unwrap();
    assert_eq!(u64::try_from(again["bytes"].clone()).unwrap(), 7);
    let other = started(&disk, key("bcm", 2), Err(OtaError::CheckFailed("no".into()))).await;
    assert_eq!(other, Err(OtaError::CheckFailed("no".into())));
}

#[tokio::test]
async fn a_client_that_keeps_properties_has_the_result_when_it_has_the_end() {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Flasher", Arc::new(Disk::new().storage())).await.unwrap();
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let path = operations
        .start(key("bcm", 1), Durability::Durable, None, |_| async move {
            let _ = wait.await;
            Ok(ResultData::from([("bytes".to_owned(), 7.into()), ("update".to_owned(), "u-1".to_owned().into())]))
        })
        .await
        .unwrap();
    let proxy = pitstop_dbus::OperationProxy::builder(&client)
        .destination("io.pitstop.Ota1.Flasher")
        .path(path.clone())
        .cache_properties(zbus::proxy::CacheProperties::Yes)
        .build()
        .await
        .unwrap();
    let properties = zbus::fdo::PropertiesProxy::builder(&client)
        .destination("io.pitstop.Ota1.Flasher")
        .path(path)
        .build()
        .await
        .unwrap();
    let mut signals = properties.receive_properties_changed().await.unwrap();
    let mut states = proxy.receive_state_changed().await;
    assert_eq!(proxy.state().await.unwrap(), "running");
    assert!(proxy.result().await.unwrap().is_empty());
    go.send(()).unwrap();
    while proxy.cached_state().unwrap().as_deref() != Some("succeeded") {
        states.next().await.unwrap();
    }
    let result = proxy.result().await.unwrap();
    assert_eq!(u64::try_from(result["bytes"].clone()).unwrap(), 7);
    assert_eq!(String::try_from(result["update"].clone()).unwrap(), "u-1");
    let last = signals.next().await.unwrap();
    let args = last.args().unwrap();
    assert_eq!(args.changed_properties["State"], zbus::Variant::from("succeeded"));
    assert_eq!(args.changed_properties["Result"].value_signature(), "a{sv}");
}

#[tokio::test]
async fn only_who_started_an_operation_cancels_it() {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Flasher", Arc::new(Disk::new().storage())).await.unwrap();
    let creator = Some(OwnedUniqueName::try_from(":1.7").unwrap());
    let path = operations
        .start(key("bcm", 1), Durability::Durable, creator, |handle| async move {
            handle.cancelled().await;
            Err(OtaError::Cancelled("asked to".into()))
        })
        .await
        .unwrap();
    // Without a bus daemon a sender says itself who it is.
    let cancel = async |sender: &str| {
        let call = zbus::Message::method_call(path.as_str(), "Cancel");
        let call = call.interface("io.pitstop.Ota1.Operation").sender(sender).build(&()).unwrap();
        client.send(&call).await.unwrap();
    };
    let mut answers = zbus::MessageStream::from(&client);
    cancel(":1.8").await;
    let refused = answers.next().await.unwrap().unwrap();
    assert_eq!(refused.header().error_name().unwrap().as_str(), "io.pitstop.Ota1.Error.WrongPhase");
    assert!(operations.is_running(|_| true));
    cancel(":1.7").await;
    assert!(matches!(operation::wait(&client, "Flasher", &path, |_| {}).await, Err(OtaError::Cancelled(_))));
}

#[tokio::test]
async fn a_failure_that_passes_is_not_remembered() {
    let disk = Disk::new();
    let away = started(&disk, key("bcm", 1), Err(OtaError::Bus(zbus::Error::InterfaceNotFound))).await;
    assert!(matches!(away, Err(OtaError::NotReady(_))), "{away:?}");
    assert_eq!(disk.files().len(), 0);
    assert!(started(&disk, key("bcm", 1), Ok(ResultData::new())).await.is_ok());
}

#[tokio::test]
async fn the_object_is_as_the_xml_says_and_goes_when_acknowledged() {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Flasher", Arc::new(Disk::new().storage())).await.unwrap();
    let path =
        operations.start(key("bcm", 1), Durability::Durable, None, |_| async { Ok(ResultData::new()) }).await.unwrap();
    let served = testing::introspect(&client, path.as_str()).await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.Operation", &served), Vec::<String>::new());
    operation::wait(&client, "Flasher", &path, |_| {}).await.unwrap();
    operation::acknowledge(&client, "Flasher", &path).await.unwrap();
    while operations.bus.object_server().interface::<_, Operation>(path.clone()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    operation::acknowledge(&client, "Flasher", &path).await.unwrap();
}

#[tokio::test]
async fn cancelling_reaches_the_work_and_a_panic_ends_as_internal() {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Flasher", Arc::new(Disk::new().storage())).await.unwrap();
    let path = operations
        .start(key("bcm", 1), Durability::Durable, None, |handle| async move {
            handle.cancelled().await;
            Err(OtaError::Cancelled("asked to".into()))
        })
        .await
        .unwrap();
    assert!(operations.is_running(|k| k.ecu == "bcm"));
    let proxy = pitstop_dbus::OperationProxy::builder(&client)
        .destination("io.pitstop.Ota1.Flasher")
        .path(path.clone())
        .build()
        .await
        .unwrap();
    assert!(matches!(proxy.acknowledge().await, Err(OtaError::Busy(_))));
    proxy.cancel().await.unwrap();
    assert!(matches!(operation::wait(&client, "Flasher", &path, |_| {}).await, Err(OtaError::Cancelled(_))));
    let path =
        operations.start(key("adas", 1), Durability::Durable, None, |_| async { panic!("a defect") }).await.unwrap();
    assert!(matches!(operation::wait(&client, "Flasher", &path, |_| {}).await, Err(OtaError::Internal(_))));
}
