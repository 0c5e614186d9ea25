//! Counters for Prometheus, written by hand: a dozen numbers need no registry.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted while the program runs; the rest is read from the database when asked.
#[derive(Debug, Default)]
pub struct Metrics {
    pub manifests_taken: Counter,
    pub manifests_refused: Counter,
    pub status_items: Counter,
    pub targets_signed: Counter,
    pub links_made: Counter,
    pub download_bytes: Counter,
    pub provisioned: Counter,
    pub hints_sent: Counter,
    pub mqtt_messages: Counter,
}

/// Grows until the program ends.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// The counters in the text exposition format.
    pub fn write(&self, out: &mut String) {
        for (name, help, counter) in [
            ("manifests_taken_total", "Version manifests that passed every check.", &self.manifests_taken),
            ("manifests_refused_total", "Version manifests that were dropped.", &self.manifests_refused),
            ("status_items_total", "Outbox items taken.", &self.status_items),
            ("director_targets_signed_total", "Director targets files signed.", &self.targets_signed),
            ("links_made_total", "Download links made.", &self.links_made),
            ("download_bytes_total", "Bytes of bundles sent.", &self.download_bytes),
            ("provisioned_total", "Devices provisioned.", &self.provisioned),
            ("hints_sent_total", "Hints handed to the broker.", &self.hints_sent),
            ("mqtt_messages_total", "Messages received from the broker.", &self.mqtt_messages),
        ] {
            let _ = writeln!(out, "# HELP pitstop_{name} {help}\n# TYPE pitstop_{name} counter");
            let _ = writeln!(out, "pitstop_{name} {}", counter.get());
        }
    }
}

/// One gauge line; the label's value is escaped.
pub fn gauge(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| {
            format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
        })
        .collect();
    let _ = writeln!(out, "pitstop_{name}{{{}}} {value}", labels.join(","));
}
