use std::fmt::Write as _;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

/// Sends the log to the journal where standard error is the journal's, and to standard error otherwise.
/// `PITSTOP_LOG` sets the level (`error` to `trace`); `info` without it.
pub(crate) fn start(service: &'static str) {
    let level = std::env::var("PITSTOP_LOG").ok().and_then(|l| l.parse().ok()).unwrap_or(LevelFilter::Info);
    log::set_max_level(level);
    if systemd_journal_logger::connected_to_journal()
        && let Ok(journal) = systemd_journal_logger::JournalLog::new()
        && journal.with_syslog_identifier(format!("pitstop-{service}")).install().is_ok()
    {
        return;
    }
    // A second start in one process (tests) keeps the first logger.
    let _ = log::set_boxed_logger(Box::new(StandardError { service }));
}

struct StandardError {
    service: &'static str,
}

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries speak up only when something is wrong.
        metadata.target().starts_with("pitstop") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = format!("{:<5} {}: {}", record.level(), self.service, record.args());
            let _ = record.key_values().visit(&mut Fields(&mut line));
            eprintln!("{line}");
        }
    }

    fn flush(&self) {}
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let _ = write!(self.0, " {key}={value}");
        Ok(())
    }
}
