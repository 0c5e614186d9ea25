//! The table as text: for the snapshot that is reviewed like code, and for the README.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::table::{TABLE, rules};
use crate::{EventKind, Phase};

/// Every phase × event pair, one line each: where it leads, or that it is refused.
pub fn full_table() -> String {
    let mut text = String::new();
    for phase in Phase::ALL {
        let _ = writeln!(text, "{phase}");
        for event in EventKind::ALL {
            let targets: Vec<String> = rules(phase, event)
                .map(|rule| {
                    let to = if rule.to == phase { "(stays)" } else { rule.to.as_str() };
                    if rule.when.is_empty() { to.to_owned() } else { format!("{to} [{}]", rule.when) }
                })
                .collect();
            let line = if targets.is_empty() { "-".to_owned() } else { targets.join(" | ") };
            let _ = writeln!(text, "    {event:<15} {line}");
        }
    }
    text
}

/// A Mermaid state diagram of what changes the phase; what only changes data is left out.
pub fn drawing() -> String {
    let mut edges: BTreeMap<(Phase, Phase), Vec<String>> = BTreeMap::new();
    for group in TABLE {
        for rule in group.rules.iter().filter(|rule| rule.from != rule.to && rule.from != Phase::Unknown) {
            edges.entry((rule.from, rule.to)).or_default().push(group.event.to_string());
        }
    }
    let mut text = String::from("stateDiagram-v2\n    [*] --> fetching\n");
    for ((from, to), events) in edges {
        let name = |phase: Phase| phase.as_str().replace('-', "_");
        let _ = writeln!(text, "    {} --> {}: {}", name(from), name(to), events.join(", "));
    }
    text.push_str("    ended --> [*]\n");
    text
}
