//! `pitstopctl`: what people type. It talks to the services over D-Bus only and decides nothing.
//!
//! `cli.rs` is the command line; `commands.rs` asks the services; `view.rs` makes text and JSON of their answers without
//! asking anybody; `watch.rs` follows a running update; `error.rs` holds exit codes and advice.

mod cli;
mod commands;
mod error;
mod evidence;
mod prompts;
mod table;
mod time;
mod view;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::error::CtlError;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) if wrong.use_stderr() && cli::asks_for_json(std::env::args_os().skip(1)) => {
            return fail(true, &cli::usage(&wrong));
        }
        // In clap's own words; help and version too, which are no errors.
        Err(wrong) => wrong.exit(),
    };
    let json = cli.json;
    pitstop_dbus::access::join_group_as_root(pitstop_dbus::access::ADMIN_GROUP);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli)),
        Err(cause) => Err(CtlError::Start(cause)),
    };
    match result {
        Ok(text) => {
            if !text.is_empty() {
                println!("{}", text.trim_end());
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(json, &error),
    }
}

fn fail(json: bool, error: &CtlError) -> ExitCode {
    if json {
        println!("{}", error.json());
    } else {
        eprint!("{}", error.human());
    }
    ExitCode::from(error.exit_code())
}
