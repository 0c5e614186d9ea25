//! Text and JSON of what the services answered. Nothing here asks anybody.

use pitstop_dbus::{
    ConditionResult, EcuDescription, HistoryEntry, LinkStatus, RefusalEntry, SlotStatus, StepStatus, UpdateStatus,
};
use serde::Serialize;

use crate::table::table;
use crate::time::{show, show_span};

/// Something a command shows.
pub trait View: Serialize {
    fn human(&self) -> String;
}

#[derive(Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub update: UpdateStatus,
    pub steps: Vec<StepStatus>,
    /// `None`: backend-link does not answer.
    pub backend: Option<LinkStatus>,
    /// Drive inhibit; `None`: vehicle-state does not answer.
    pub inhibit: Option<String>,
    pub open_prompts: Option<usize>,
}

#[derive(Debug, Serialize)]
pub struct Ecu {
    #[serde(flatten)]
    pub description: EcuDescription,
    pub version: String,
    pub software_number: String,
    pub serial: String,
    /// Why it could not be read; empty when it could.
    pub error: String,
}

#[derive(Debug, Serialize)]
pub struct Prompt {
    pub update: String,
    pub purpose: String,
    pub changes: String,
    pub expected_secs: u32,
    pub unavailable: String,
    pub instructions: String,
    pub text_digest: String,
}

#[derive(Debug, Serialize)]
pub struct Notice {
    pub update: String,
    pub end: String,
    pub text: String,
}

#[derive(Debug, Serialize)]
pub struct Signal {
    pub name: String,
    pub value: serde_json::Value,
    /// `None`: never received.
    pub age_ms: Option<i64>,
    pub fresh: bool,
}

/// The result of a command that did something.
#[derive(Debug, Serialize)]
pub struct Done {
    pub done: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub update: String,
    /// What else there is to say.
    #[serde(skip)]
    pub text: String,
}

#[derive(Debug, Serialize)]
pub struct Chain {
    pub whole: bool,
    pub entries: u64,
    pub head: String,
}

/// Lists have their own headings; an empty one says so.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

impl View for Status {
    fn human(&self) -> String {
        let update = &self.update;
        let mut text = if update.update.is_empty() {
            "No update is running.\n".to_owned()
        } else {
            format!("Update {} of campaign {}: {}\n", update.update, update.campaign, phase_words(update))
        };
        if update.started != 0 {
            text += &format!("Started   {}\n", show(update.started));
        }
        if update.deadline != 0 {
            text += &format!("Deadline  {}\n", show(update.deadline));
        }
        if !update.error_name.is_empty() {
            text += &format!("Reason    {} ({})\n", update.error_text, short(&update.error_name));
        }
        for reason in &update.blocked {
            text += &format!("Blocked   {reason}\n");
        }
        if let Some(open) = self.open_prompts.filter(|open| *open > 0) {
            text += &format!("Asked     {open} open; see 'pitstopctl prompt'\n");
        }
        text += &format!("Inhibit   {}\n", self.inhibit.as_deref().unwrap_or("vehicle-state does not answer"));
        text += &format!(
            "Backend   {}\n",
            self.backend.as_ref().map_or("backend-link does not answer".to_owned(), backend_words)
        );
        if !self.steps.is_empty() {
            text += "\n";
            text += &steps_table(&self.steps);
        }
        text
    }
}

fn phase_words(update: &UpdateStatus) -> String {
    if update.end.is_empty() { update.phase.clone() } else { format!("ended {}", update.end) }
}

fn backend_words(link: &LinkStatus) -> String {
    if !link.provisioned {
        return "not provisioned; see 'pitstopctl provision'".to_owned();
    }
    let connection = if link.connected { "connected" } else { "not connected" };
    let waiting = if link.outbox == 0 { String::new() } else { format!(", {} reports waiting", link.outbox) };
    format!(
        "{connection} as {}, last contact {}, key in {}{waiting}",
        link.device,
        show(link.last_contact),
        link.key_store
    )
}

fn steps_table(steps: &[StepStatus]) -> String {
    let row = |step: &StepStatus| {
        let progress = percent(step).map_or_else(String::new, |percent| format!("{percent} %"));
        [&step.ecu, &step.bus, &step.before, &step.after, &step.state, &step.phase, &progress]
            .map(|cell| dash(cell))
            .to_vec()
    };
    table(&["ECU", "BUS", "BEFORE", "AFTER", "STATE", "DOING", "PROGRESS"], &steps.iter().map(row).collect::<Vec<_>>())
}

/// Whole per cent done; `None` where the total is not known.
pub fn percent(step: &StepStatus) -> Option<u64> {
    step.done.min(step.total).checked_mul(100)?.checked_div(step.total)
}

impl View for List<Ecu> {
    fn human(&self) -> String {
        let row = |ecu: &Ecu| {
            let version = if ecu.error.is_empty() { dash(&ecu.version) } else { short(&ecu.error).to_owned() };
            let from = &ecu.description;
            let via = if from.via.is_empty() { String::new() } else { format!(" via {}", from.via) };
            let address = format!("{}{via}", from.address);
            vec![
                from.ecu.clone(),
                dash(&from.bus),
                dash(&address),
                dash(&from.banks),
                dash(&from.hardware),
                version,
                dash(&ecu.software_number),
                dash(&ecu.serial),
            ]
        };
        let headers = ["ECU", "BUS", "ADDRESS", "BANKS", "HARDWARE", "VERSION", "NUMBER", "SERIAL"];
        listed("This vehicle lists no ECU.", &headers, self.0.iter().map(row).collect())
    }
}

impl View for List<SlotStatus> {
    fn human(&self) -> String {
        let row = |slot: &SlotStatus| {
            let marks = [(slot.booted, "booted"), (slot.primary, "first in boot order")];
            let marks: Vec<&str> = marks.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
            vec![slot.name.clone(), slot.state.clone(), dash(&slot.version), dash(&slot.hardware), marks.join(", ")]
        };
        let headers = ["SLOT", "STATE", "VERSION", "HARDWARE", ""];
        listed("This TCU has no slots.", &headers, self.0.iter().map(row).collect())
    }
}

impl View for List<Prompt> {
    fn human(&self) -> String {
        if self.0.is_empty() {
            return "Nothing is asked.\n".to_owned();
        }
        let one = |prompt: &Prompt| {
            format!(
                "Update {}\n  Purpose         {}\n  Changes         {}\n  Expected time   {}\n  Will not work   {}\n  What to do      {}\n\
                 Answer by: pitstopctl approve | schedule TIME | defer | decline {0}\n",
                prompt.update,
                prompt.purpose,
                prompt.changes,
                show_span(u64::from(prompt.expected_secs)),
                prompt.unavailable,
                prompt.instructions
            )
        };
        self.0.iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

impl View for List<Notice> {
    fn human(&self) -> String {
        let row = |notice: &Notice| vec![notice.update.clone(), notice.end.clone(), notice.text.clone()];
        listed("No notices.", &["UPDATE", "END", "TEXT"], self.0.iter().map(row).collect())
    }
}

impl View for List<Signal> {
    fn human(&self) -> String {
        let row = |signal: &Signal| {
            let (value, age) = match signal.age_ms {
                Some(age) => (signal.value.to_string(), format!("{age} ms")),
                None => ("-".to_owned(), "never received".to_owned()),
            };
            vec![signal.name.clone(), value, age, if signal.fresh { "fresh" } else { "not usable" }.to_owned()]
        };
        listed("No signals.", &["SIGNAL", "VALUE", "AGE", ""], self.0.iter().map(row).collect())
    }
}

impl View for List<ConditionResult> {
    fn human(&self) -> String {
        let one = |result: &ConditionResult| {
            let verdict = if result.holds { "holds" } else { "does not hold" };
            let reasons = result.reason.split("; ").filter(|reason| !reason.is_empty());
            format!(
                "{}: {verdict}\n{}",
                result.condition,
                reasons.map(|reason| format!("  {reason}\n")).collect::<String>()
            )
        };
        self.0.iter().map(one).collect()
    }
}

impl View for List<HistoryEntry> {
    fn human(&self) -> String {
        let one = |entry: &HistoryEntry| {
            let mut text = format!("{}  {}  {} ({})\n", show(entry.ended), entry.update, entry.end, entry.campaign);
            if !entry.error_name.is_empty() {
                text += &format!("  {} ({})\n", entry.error_text, short(&entry.error_name));
            }
            for (ecu, before, after) in &entry.ecus {
                text += &format!("  {ecu}: {} -> {}\n", dash(before), dash(after));
            }
            text
        };
        if self.0.is_empty() { "No update has ended yet.\n".to_owned() } else { self.0.iter().map(one).collect() }
    }
}

impl View for List<RefusalEntry> {
    fn human(&self) -> String {
        let row = |entry: &RefusalEntry| {
            vec![show(entry.at), dash(&entry.update), short(&entry.error_name).to_owned(), entry.text.clone()]
        };
        listed("Nothing was refused.", &["TIME", "UPDATE", "ERROR", "TEXT"], self.0.iter().map(row).collect())
    }
}

impl View for Chain {
    fn human(&self) -> String {
        format!("The history is whole: {} entries, newest hash {}\n", self.entries, self.head)
    }
}

impl View for Done {
    fn human(&self) -> String {
        format!("{}\n", self.text)
    }
}

fn listed(empty: &str, headers: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { format!("{empty}\n") } else { table(headers, &rows) }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// An error's name without the prefix that all have.
pub fn short(error_name: &str) -> &str {
    error_name.rsplit('.').next().unwrap_or(error_name)
}

#[cfg(test)]
pub(crate) mod tests;
