//! What a person sees: bars while it runs, a table at the end.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pitstop_dbus::{StepStatus, UpdateStatus};
use serde_json::Value;

use crate::world::EcuVersion;

/// Live progress: a line for the phase and one per control unit. Prints plain lines where there is no terminal.
#[derive(Debug)]
pub struct Screen {
    bars: MultiProgress,
    phase: ProgressBar,
    ecus: BTreeMap<String, ProgressBar>,
    last_phase: String,
    quiet: bool,
    plain: bool,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        let plain = !std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bars = MultiProgress::new();
        if quiet || plain {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let phase = bars.add(ProgressBar::new_spinner());
        phase.set_style(style("{spinner} {msg}"));
        Self { bars, phase, ecus: BTreeMap::new(), last_phase: String::new(), quiet, plain }
    }

    /// Shows the manager's picture of the update.
    pub fn update(&mut self, status: &UpdateStatus, steps: &[StepStatus]) {
        let mut line = status.phase.clone();
        if let Some(first) = status.blocked.first() {
            line = format!("{line}: {first}");
        }
        if line != self.last_phase {
            if self.plain && !self.quiet && !line.is_empty() {
                eprintln!("    {line}");
            }
            self.last_phase.clone_from(&line);
        }
        self.phase.set_message(line);
        self.phase.tick();
        for step in steps {
            let bars = &self.bars;
            let bar = self.ecus.entry(step.ecu.clone()).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(1));
                bar.set_style(style("  {prefix:<9} {bar:30} {bytes:>10}/{total_bytes:<10} {msg}"));
                bar.set_prefix(step.ecu.clone());
                bar
            });
            bar.set_length(step.total.max(1));
            bar.set_position(step.done.min(step.total.max(1)));
            bar.set_message(format!("{} {}", step.state, step.phase));
        }
    }

    /// A line above the bars.
    pub fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.plain {
            eprintln!("==> {text}");
        } else {
            let _ = self.bars.println(format!("==> {text}"));
        }
    }

    pub fn finish(&self) {
        self.bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let _ = self.bars.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a wrong one shows as the default bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Before and after, side by side.
pub fn table(before: &[EcuVersion], after: &[EcuVersion]) -> String {
    let mut text = format!("{:<9} {:<7} {:<7} {:<10} {:<10}\n", "ECU", "bus", "banks", "before", "after");
    for ecu in before {
        let now = after.iter().find(|a| a.id == ecu.id).map_or("?", |a| a.version.as_str());
        text.push_str(&format!(
            "{:<9} {:<7} {:<7} {:<10} {:<10}\n",
            ecu.id,
            ecu.bus,
            ecu.banks,
            or_dash(&ecu.version),
            or_dash(now)
        ));
    }
    text
}

/// The five facts as a person is asked.
pub fn prompt(facts: &BTreeMap<&str, String>) -> String {
    let mut text = String::from("\nAn update is ready for this vehicle.\n");
    for (name, value) in facts {
        text.push_str(&format!("  {name:<14} {value}\n"));
    }
    text
}

/// The backend's own view of the vehicle, in a line.
pub fn backend_view(view: &Value) -> String {
    let state = view["vehicle"].as_str().unwrap_or("?");
    match view["reason"].as_str() {
        Some(reason) if !reason.is_empty() => format!("backend: {state} ({reason})"),
        _ => format!("backend: {state}"),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
