//! The object on a bus of two ends.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use pitstop_dbus::{OtaError, ValidatorProxy};
use pitstop_runtime::{Operations, operation, testing};
use zbus::Fd;

use super::stage::Stage;
use crate::bus::Bus;

async fn served(stage: &Stage) -> (zbus::Connection, zbus::Connection) {
    let (server, client) = testing::pair().await;
    let operations = Operations::new(&server, "Validator", Arc::new(stage.disk.storage())).await.unwrap();
    let object = Bus { validator: stage.open(), operations };
    server.object_server().at(pitstop_dbus::object_path("Validator"), object).await.unwrap();
    (server, client)
}

async fn proxy(client: &zbus::Connection) -> ValidatorProxy<'static> {
    ValidatorProxy::new(client).await.unwrap()
}

#[tokio::test]
async fn the_object_is_as_the_xml_says() {
    let stage = Stage::new();
    let (_server, client) = served(&stage).await;
    let xml = testing::introspect(&client, "/io/pitstop/Ota1/Validator").await;
    let differences = pitstop_dbus::contract::differences("io.pitstop.Ota1.Validator", &xml);
    assert_eq!(differences, Vec::<String>::new());
}

#[tokio::test]
async fn an_update_goes_through_over_the_bus() {
    let stage = Stage::new();
    let (_server, client) = served(&stage).await;
    let proxy = proxy(&client).await;
    let path = proxy.verify().await.unwrap();
    let result = operation::wait(&client, "Validator", &path, |_| {}).await.unwrap();
    assert_eq!(String::try_from(result["update"].clone()).unwrap(), "u-1");
    let decision: pitstop_types::Decision = serde_json::from_str(&proxy.get_decision("u-1").await.unwrap()).unwrap();
    assert_eq!(decision.ecus.len(), 1);
    let file = std::fs::File::open(&stage.target.path).unwrap();
    let path = proxy.admit("u-1", "bcm", "target", Fd::from(file.as_fd())).await.unwrap();
    operation::wait(&client, "Validator", &path, |_| {}).await.unwrap();
    let (_, description) = proxy.open_admitted("u-1", "bcm", "target").await.unwrap();
    assert_eq!(description.version, "2.0.0");
    assert!(!proxy.collect_manifest("u-1").await.unwrap().is_empty());
    proxy.raise_floors("u-1").await.unwrap();
    assert_eq!(proxy.get_floors().await.unwrap().len(), 2);
    assert_eq!(proxy.get_status().await.unwrap().key_store, "file");
    assert_eq!(proxy.get_identity().await.unwrap().0.len(), 64);
    proxy.release("u-1").await.unwrap();
    assert!(matches!(proxy.open_admitted("u-1", "bcm", "target").await, Err(OtaError::NotAdmitted(_))));
}

#[tokio::test]
async fn a_tampered_bundle_is_refused_by_name_and_the_whole_one_is_taken_after_it() {
    let stage = Stage::new();
    let (_server, client) = served(&stage).await;
    let proxy = proxy(&client).await;
    let path = proxy.verify().await.unwrap();
    operation::wait(&client, "Validator", &path, |_| {}).await.unwrap();
    let bad = super::stage::changed(&stage.target.path, |bytes| bytes[5000] ^= 1);
    for (bundle, good) in [(&bad, false), (&stage.target.path, true)] {
        let file = std::fs::File::open(bundle).unwrap();
        let path = proxy.admit("u-1", "bcm", "target", Fd::from(file.as_fd())).await.unwrap();
        match operation::wait(&client, "Validator", &path, |_| {}).await {
            Ok(_) => assert!(good),
            Err(error) => assert_eq!((error.short_name(), good), ("HashMismatch", false)),
        }
    }
}

#[tokio::test]
async fn nonsense_over_the_bus_is_a_named_error_and_the_service_lives_on() {
    let stage = Stage::new();
    let (_server, client) = served(&stage).await;
    let proxy = proxy(&client).await;
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(proxy.get_decision("").await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.get_decision("u-9").await, Err(OtaError::UnknownUpdate(_))));
    assert!(matches!(
        proxy.admit("u-9", "bcm", "target", Fd::from(file.as_fd())).await,
        Err(OtaError::UnknownUpdate(_))
    ));
    assert!(matches!(proxy.open_admitted("u-9", "x/y", "z").await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(proxy.release(&"x".repeat(1000)).await, Err(OtaError::InvalidArgument(_))));
    assert!(proxy.get_status().await.is_ok());
}
