use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::error::CtlError;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for watch and check --wait: the update ended with everything new
  1  a service refused or failed; the text says what to do
  2  the command line is wrong, or an update must be named
  3  a service cannot be reached
  4  there is nothing to do it to: no prompt, no notice, no update
  5  the update ended in another way than everything new";

/// Looks at and drives vehicle updates.
#[derive(Debug, Parser)]
#[command(name = "pitstopctl", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// Prints JSON, errors too: one value; from watch, check --wait and history --export one per line
    #[arg(long, global = true)]
    pub json: bool,

    /// D-Bus address to use in place of the system bus, such as unix:path=/run/x/bus
    #[arg(long, global = true, value_name = "ADDRESS", env = "DBUS_SYSTEM_BUS_ADDRESS", hide_env_values = true)]
    pub address: Option<String>,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The running update, what blocks it, and the link to the backend
    Status,
    /// Asks the backend for an update now
    Check {
        /// Follows the update to its end, if there is one
        #[arg(long)]
        wait: bool,
    },
    /// The vehicle's ECUs and the versions they run, read from them now
    Ecus,
    /// The TCU's slots
    Slots,
    /// What the driver is asked
    Prompt,
    /// Agrees to an update: it starts as soon as the vehicle allows
    Approve(Which),
    /// Puts an update off; it is asked about again
    Defer(Which),
    /// Agrees to an update at a time
    Schedule {
        /// 2026-12-01T22:30:00+01:00, 22:30 (the next one, in --zone), or a span from now: +90m, +8h, +2d
        time: String,
        /// IANA zone of a time such as 22:30
        #[arg(long, env = "TZ", value_name = "ZONE", hide_env_values = true)]
        zone: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Says no to an update
    Decline(Which),
    /// Ends the running update: cancelled before anything changed, undone later
    Cancel,
    /// Ended updates, newest first
    History {
        /// Entries shown
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Fetches all entries and recomputes their hash chain here instead
        #[arg(long, conflicts_with_all = ["refusals", "export"])]
        verify: bool,
        /// Prints all entries as they are stored, oldest first, one JSON object per line: evidence to keep
        #[arg(long, conflicts_with = "refusals")]
        export: bool,
        /// Shows what was refused instead
        #[arg(long)]
        refusals: bool,
    },
    /// Vehicle signals with their age
    Signals {
        /// Only signals whose name contains this
        filter: Option<String>,
    },
    /// Judges conditions now, such as 'parked and battery-ok'
    Conditions {
        #[arg(required = true, value_name = "CONDITION")]
        conditions: Vec<String>,
    },
    /// Follows the running or the next update to its end
    Watch,
    /// How updates ended, as far as nobody acknowledged it
    Notices,
    /// Acknowledges a notice
    Ack(Which),
    /// Makes this vehicle known to the backend
    Provision {
        /// One-time token from the backend; - reads it from standard input
        token: String,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// Update id; may be left out when there is only one
    pub update: Option<String>,
}

/// Whether JSON is asked for in a command line that is wrong in some other place, so that nothing else of it can be told.
pub fn asks_for_json(words: impl IntoIterator<Item = OsString>) -> bool {
    words.into_iter().take_while(|word| word != "--").any(|word| word == "--json")
}

/// A wrong command line as an error like the others: clap's reason in one line, without its tips.
pub fn usage(wrong: &clap::Error) -> CtlError {
    let text = wrong.render().to_string();
    let reason = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = reason.split_whitespace().skip_while(|word| *word == "error:").collect();
    CtlError::Usage(words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_is_as_reviewed() {
        let mut command = Cli::command();
        command.build();
        let mut text = command.render_long_help().to_string();
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let help = sub.render_help();
            text += &format!("\n==== {}\n{help}", sub.get_name());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_command_line_is_read() {
        let cli = Cli::try_parse_from(["pitstopctl", "schedule", "+8h", "u-1", "--json"]).unwrap();
        assert!(cli.json);
        assert!(matches!(cli.command, Command::Schedule { which: Which { update: Some(_) }, .. }));
        assert!(Cli::try_parse_from(["pitstopctl", "history", "--limit", "0"]).is_err());
        assert!(Cli::try_parse_from(["pitstopctl", "conditions"]).is_err());
    }

    #[test]
    fn a_wrong_command_line_is_an_error_like_the_others() {
        for (words, reason) in [
            (&["--json", "nonsense"][..], "unrecognized subcommand 'nonsense'"),
            (&["--json", "schedule"], "the following required arguments were not provided: <TIME>"),
            (&["history", "--limit", "0", "--json"], "invalid value '0' for '--limit <LIMIT>': 0 is not in 1..=1000"),
            (&["--json", "status", "--verbose"], "unexpected argument '--verbose' found"),
        ] {
            let wrong = Cli::try_parse_from(["pitstopctl"].iter().chain(words)).unwrap_err();
            assert!(wrong.use_stderr() && asks_for_json(words.iter().map(OsString::from)));
            let error = usage(&wrong);
            assert_eq!((error.to_string().as_str(), error.exit_code()), (reason, 2));
            let json: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
            assert_eq!(json["error"]["name"], "Usage");
        }
    }

    #[test]
    fn help_is_no_error_and_a_value_does_not_ask_for_json() {
        assert!(!Cli::try_parse_from(["pitstopctl", "--json", "--help"]).unwrap_err().use_stderr());
        assert!(!Cli::try_parse_from(["pitstopctl", "--json", "--version"]).unwrap_err().use_stderr());
        assert!(!asks_for_json(["ack", "--", "--json"].map(OsString::from)));
    }
}
