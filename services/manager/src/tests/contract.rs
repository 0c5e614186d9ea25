//! The object as the XML says, and the README as the table says.

use std::sync::Arc;

use pitstop_dbus::{ManagerProxy, OtaError};
use pitstop_lifecycle::Phase;
use pitstop_runtime::{Operations, testing};
use pitstop_store::cut::Disk;
use pitstop_types::UpdateEnd;
use tokio::sync::{mpsc, watch};

use crate::service::Command;
use crate::{ManagerObject, Shown};

const PATH: &str = "/io/pitstop/Ota1/Manager";

#[tokio::test]
async fn the_object_is_as_the_xml_says_and_refuses_what_is_out_of_range() {
    let (server, client) = testing::pair().await;
    let (commands, mut received) = mpsc::channel(8);
    let (_shown, properties) = watch::channel(Shown::idle());
    let operations = Operations::new(&server, "Manager", Arc::new(Disk::new().storage())).await.unwrap();
    server.object_server().at(PATH, ManagerObject::new(commands, operations, properties)).await.unwrap();
    let served = testing::introspect(&client, PATH).await;
    assert_eq!(pitstop_dbus::contract::differences("io.pitstop.Ota1.Manager", &served), Vec::<String>::new());

    tokio::spawn(async move {
        while let Some(command) = received.recv().await {
            if let Command::Cancel { reply, .. } = command {
                let _ = reply.send(Err(OtaError::NoUpdate("no update is running".into())));
            }
        }
    });
    let manager = ManagerProxy::builder(&client).destination("io.pitstop.Test").build().await;
    let manager = manager.unwrap();
    assert!(matches!(manager.get_history(0).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(manager.get_refusals(1001).await, Err(OtaError::InvalidArgument(_))));
    assert!(matches!(manager.cancel().await, Err(OtaError::NoUpdate(_))));
    assert_eq!(manager.phase().await.unwrap(), "idle");
}

#[test]
fn the_contract_lists_every_phase_and_every_end() {
    let contract = include_str!("../../../../dbus-interfaces/io.pitstop.Ota1.Manager.xml");
    let words = contract.split("Phases:").nth(1).and_then(|rest| rest.split("-->").next()).unwrap();
    let (phases, ends) = words.split_once("Ends:").unwrap();
    for phase in Phase::ALL {
        assert!(phases.contains(&format!("\"{phase}\"")), "{phase}");
    }
    for end in UpdateEnd::ALL {
        assert!(ends.contains(&format!("\"{end}\"")), "{end}");
    }
}

#[test]
fn the_readme_shows_the_tables_own_drawing() {
    let readme = include_str!("../../README.md");
    let between =
        readme.split("<!-- drawing: begin -->").nth(1).and_then(|rest| rest.split("<!-- drawing: end -->").next());
    let wanted = format!("\n```mermaid\n{}```\n", pitstop_lifecycle::drawing());
    assert_eq!(between, Some(wanted.as_str()), "put the drawing of the lifecycle's snapshot into the README");
}
