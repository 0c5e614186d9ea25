//! The HMI service: what the other services ask the driver, what the driver answers, and how an update ended.
//!
//! Read [`Desk`] first: it is the whole behaviour, without a bus. `service.rs` is the one task that owns it and tells the
//! objects on the bus what changed; `bus.rs` holds those objects. Screens implement against `io.pitstop.Ota1.Prompts`.

mod bus;
mod config;
mod desk;
mod record;
mod service;

use std::process::ExitCode;

use pitstop_runtime::{Args, Context};

pub use config::Settings;
pub use desk::{Change, Desk, DeskError, MAX_KEPT, MAX_NOTICE_BYTES};
pub use record::{Answer, Consent, Notice, Origin, Prompt, PromptState, choice_words, text_digest};
pub use service::{Clock, Service};

/// Runs the service to its end.
pub fn main(args: Args) -> ExitCode {
    pitstop_runtime::run("hmi", args, start)
}

async fn start(context: Context) -> anyhow::Result<()> {
    let settings: Settings = context.config::<config::Input>()?.validate()?;
    let desk = Desk::load(context.storage()?, settings.schedule_ahead)?;
    let bus = context.bus().await?;
    let service = Service::serve(&bus, desk, pitstop_runtime::wall_clock).await?;
    context.ready(&bus, "Hmi").await?;
    tokio::select! {
        () = service.run() => {}
        () = context.until_shutdown() => {}
    }
    Ok(())
}
