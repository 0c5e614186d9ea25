//! A reference HMI: a web page that shows prompts and notices and sends answers, to copy from when writing a real screen.
//!
//! It uses the contract for screens only, `io.pitstop.Ota1.Prompts` and the objects it lists, with the rights of the group
//! `pitstop-hmi-client`. Read `mirror.rs` first: it is all that a screen has to do on the bus. `web.rs` brings that to a browser.

mod failure;
mod mirror;
mod web;

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use clap::Parser;
use tokio::net::TcpListener;

/// The group whose members show prompts and answer for the driver.
const SCREEN_GROUP: &str = "pitstop-hmi-client";

/// Shows vehicle update prompts as a web page on this computer.
#[derive(Debug, Parser)]
#[command(name = "pitstop-hmi-web", version)]
struct Cli {
    /// Loopback address and port to listen at; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8190")]
    listen: SocketAddr,
    /// D-Bus address to use in place of the system bus
    #[arg(long, env = "DBUS_SYSTEM_BUS_ADDRESS", hide_env_values = true)]
    address: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    pitstop_dbus::access::join_group_as_root(SCREEN_GROUP);
    // Whoever reaches the page can answer for the driver.
    ensure!(cli.listen.ip().is_loopback(), "{} is not a loopback address", cli.listen);
    let builder = match cli.address.as_deref() {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::system(),
    };
    let bus = builder.build().await.context("connecting to the bus")?;
    let listener = TcpListener::bind(cli.listen).await.with_context(|| format!("listening at {}", cli.listen))?;
    println!("http://{}/", listener.local_addr()?);
    let screen = mirror::start(&bus).await?;
    tokio::select! {
        served = axum::serve(listener, web::router(bus, screen)) => served.context("serving the page"),
        stopped = tokio::signal::ctrl_c() => stopped.context("waiting for Ctrl-C"),
    }
}

#[cfg(test)]
mod tests {
    use pitstop_dbus::access::{Access, Caller, TABLE};

    #[test]
    fn the_group_may_do_all_that_a_screen_does() {
        let table = Access::parse(TABLE).unwrap();
        let group = |name: &str| matches!(table.callers.get(name), Some(Caller::Group(g)) if g == super::SCREEN_GROUP);
        let screen = table.callers.keys().find(|name| group(name)).unwrap();
        for (interface, member) in
            [("Prompts", "ListPrompts"), ("Prompts", "ListNotices"), ("Prompt", "Answer"), ("Notice", "Acknowledge")]
        {
            assert!(table.allows(screen, "Hmi", interface, member), "{interface}.{member}");
        }
    }
}
