//! `can-bridge join HOST:PORT INTERFACE=BUS[+fd]...` in the guest, `can-bridge relay ADDRESS:PORT HUB-SOCKET` on the host, and
//! `can-bridge echo INTERFACE classic|fd` for the kernel's ISO-TP to talk to, which `can-bridge kernel-send` and `kernel-receive` use.

use std::process::ExitCode;

use anyhow::{Context, bail};
use pitstop_can_bridge::{Joint, echo, join, kernel, relay};

const USAGE: &str = "\
usage: can-bridge join HOST:PORT INTERFACE=BUS[+fd]...
       can-bridge relay ADDRESS:PORT HUB-SOCKET
       can-bridge echo INTERFACE classic|fd
       can-bridge kernel-send INTERFACE classic|fd SOURCE DESTINATION < MESSAGE
       can-bridge kernel-receive INTERFACE classic|fd SOURCE DESTINATION > MESSAGE";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("starting the event loop").and_then(|runtime| runtime.block_on(run(&words)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("can-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["join", server, joints @ ..] if !joints.is_empty() => {
            let mut tasks = tokio::task::JoinSet::new();
            for joint in joints {
                let (server, joint): (String, Joint) = ((*server).to_owned(), joint.parse()?);
                tasks.spawn(async move { join(&server, &joint).await });
            }
            tasks.join_all().await;
            Ok(())
        }
        ["relay", address, hub] => {
            let listener =
                tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening at {address}"))?;
            Ok(relay(listener, std::path::Path::new(hub)).await?)
        }
        ["echo", interface, kind @ ("classic" | "fd")] => echo(interface, *kind == "fd").await,
        // Nothing else runs that they could keep waiting.
        ["kernel-send", interface, kind @ ("classic" | "fd"), source, destination] => {
            kernel::send_input(interface, *kind == "fd", kernel::identifier(source)?, kernel::identifier(destination)?)
        }
        ["kernel-receive", interface, kind @ ("classic" | "fd"), source, destination] => {
            let (source, destination) = (kernel::identifier(source)?, kernel::identifier(destination)?);
            kernel::receive_to_output(interface, *kind == "fd", source, destination)
        }
        _ => bail!("{USAGE}"),
    }
}
