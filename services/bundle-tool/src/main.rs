//! `pitstop-bundle`: see the library of the same package.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = pitstop_bundle_tool::Arguments::parse();
    let json = arguments.json;
    match pitstop_bundle_tool::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            pitstop_bundle_tool::report(&error, json);
            ExitCode::FAILURE
        }
    }
}
