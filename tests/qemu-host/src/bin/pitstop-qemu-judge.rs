//! Reads what a TCU has stored on its disk, by the code with which the services and the boot decision read it, and says what is wrong.
//!
//! `cargo xtask qemu --scenario flushes` takes the files off the disk and talks to it: one JSON line for each word on standard input.
//! `environment DIR` reads both copies of the boot environment below DIR (`boot/grub/…`) and starts three times in a row from it, in
//! DIR's files; `records DIR` reads the small files of each service in DIR (`manager/…`, …). It ends with its standard input.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use pitstop_boot_env::{BlockCopy, FileCopy, GrubFiles, boot_decision};
use pitstop_manager::History;
use pitstop_slots::{GrubEnv, SlotPair};
use pitstop_store::{Document, FileStorage, Storage};
use pitstop_types::SlotName;
use serde_json::{Value, json};

/// How often the TCU starts without anybody marking a slot good: to the first choice, to the other, to the last resort.
const STARTS: usize = 3;
/// How a stored document begins.
const DOCUMENT: &[u8] = b"pitstop ";

fn main() -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ') {
            Some(("environment", dir)) => environment(Path::new(dir)),
            Some(("records", dir)) => records(Path::new(dir)),
            _ => Err(anyhow::anyhow!("there is no word {line:?}")),
        };
        println!("{}", answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") })));
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Both copies, and the slots of the next starts.
fn environment(dir: &Path) -> anyhow::Result<Value> {
    let slots = SlotPair::new(SlotName::new("A")?, SlotName::new("B")?)?;
    let copies = ["boot/grub/grubenv", "boot/grub/grubenv.copy"].map(|name| FileCopy::new(dir.join(name)));
    for copy in &copies {
        let name = copy.path().display();
        let block = copy.read().with_context(|| format!("reading {name}"))?;
        GrubEnv::decode(&block).with_context(|| format!("{name} is no boot environment"))?;
    }
    let [first, second] = copies;
    let env = GrubFiles::new(first, second, slots.clone());
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let decision = boot_decision(&env, &slots);
        ensure!(decision.saved, "the boot decision cannot be written down");
        starts.push(json!({ "slot": decision.slot, "why": decision.why }));
    }
    Ok(json!({ "starts": starts }))
}

/// What the services would find at their start.
fn records(dir: &Path) -> anyhow::Result<Value> {
    let manager = storage(dir, "manager")?;
    let record = pitstop_manager::stored_record(&manager).context("the manager's record")?;
    let history = History::new(manager).verify().context("the manager's history")?;
    ensure!(history.whole, "the chain of the manager's history is broken");
    let slots =
        pitstop_self_update::core::stored_record(storage(dir, "self-update")?).context("self-update's record")?;
    let touched = pitstop_flasher::stored_records(storage(dir, "flasher")?).context("the flasher's records")?;
    let documents = documents(dir)?;
    let installation = slots.as_ref().and_then(|slots| slots.installation.as_ref());
    Ok(json!({
        "phase": record.map(|record| record.phase.to_string()),
        "ended": history.entries,
        "committed": slots.as_ref().map(|slots| &slots.committed),
        "installation": installation.map(|now| now.phase.to_string()),
        "target": installation.map(|now| &now.target),
        "touched": touched,
        "documents": documents,
    }))
}

/// A service's folder, which may not be there yet. Opening it removes what was half-written, as the service's start does.
fn storage(dir: &Path, service: &str) -> anyhow::Result<Arc<dyn Storage>> {
    Ok(Arc::new(FileStorage::open(dir.join(service))?))
}

/// Counts the documents of all services; each must be whole.
fn documents(dir: &Path) -> anyhow::Result<u32> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let service = entry?.file_name().to_string_lossy().into_owned();
        let storage = storage(dir, &service)?;
        for name in storage.list("")? {
            ensure!(!name.ends_with(".damaged"), "{service} has put aside {name}");
            // A log is made empty, and grows; another service's flush may come between. Every other file is written before it has its name.
            let is_log = service == "manager" && name == "history";
            let is_document = |bytes: Vec<u8>| bytes.starts_with(DOCUMENT) || (bytes.is_empty() && !is_log);
            if storage.read(&name)?.is_some_and(is_document) {
                // The envelope alone: its format is the service's business.
                let document = Document::<Value>::new(storage.clone(), &name, u32::MAX);
                document.load().with_context(|| format!("{service}/{name}"))?;
                count += 1;
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# GRUB Environment Block\nORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n";

    fn block(text: &str) -> String {
        format!("{text}{}", "#".repeat(1024 - text.len()))
    }

    fn environment_of(first: &str, second: &str) -> anyhow::Result<Value> {
        let dir = tempfile::tempdir().unwrap();
        let grub = dir.path().join("boot/grub");
        std::fs::create_dir_all(&grub).unwrap();
        std::fs::write(grub.join("grubenv"), first).unwrap();
        std::fs::write(grub.join("grubenv.copy"), second).unwrap();
        environment(dir.path())
    }

    #[test]
    fn an_environment_tells_where_the_next_starts_go() {
        let trying = GOOD.replace("ORDER=A B", "ORDER=B A").replace("B_OK=0", "B_OK=1");
        let told = environment_of(&block(&trying), &block(GOOD)).unwrap();
        let starts: Vec<_> = told["starts"].as_array().unwrap().iter().map(|start| &start["slot"]).collect();
        assert_eq!(starts, ["B", "A", "B"]);
        assert_eq!(told["starts"][2]["why"], "last-resort");
    }

    #[test]
    fn a_torn_copy_is_found_whichever_it_is() {
        // All variables lie in the first sector.
        let torn = format!("{}{}", "\0".repeat(512), &block(GOOD)[512..]);
        for (first, second) in [(torn.clone(), block(GOOD)), (block(GOOD), torn), (block(GOOD), String::new())] {
            assert!(environment_of(&first, &second).is_err());
        }
    }

    fn stored() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |service: &str, name: &str, body: &str| {
            let text = format!("pitstop 1 {}\n{body}", pitstop_types::Digest::of(body.as_bytes()));
            storage(dir.path(), service).unwrap().replace(name, text.as_bytes()).unwrap();
        };
        put("self-update", "slots", r#"{"committed":"A","installation":null}"#);
        put("flasher", "touched/adas", r#"{"update":"u-1","verb":"stage","digest":"00"}"#);
        put("hmi", "prompts/one", r#"{"any":1}"#);
        dir
    }

    #[test]
    fn what_services_stored_is_read() {
        let told = records(stored().path()).unwrap();
        assert_eq!(
            (&told["committed"], &told["installation"], &told["phase"]),
            (&json!("A"), &Value::Null, &Value::Null)
        );
        assert_eq!((&told["touched"], &told["documents"]), (&json!(["touched/adas"]), &json!(3)));
        assert!(records(tempfile::tempdir().unwrap().path()).is_ok(), "before the first start there is nothing");
    }

    #[test]
    fn a_history_that_was_made_and_has_no_line_yet_is_read_as_it_is_by_the_manager() {
        let dir = stored();
        storage(dir.path(), "manager").unwrap().append("history", b"").unwrap();
        assert_eq!(records(dir.path()).unwrap()["ended"], 0);
    }

    #[test]
    fn what_a_service_could_not_read_is_found() {
        for (service, name, bytes) in [
            ("manager", "record", "pitstop 1 00\n{}"),
            ("manager", "history", "{\"previous\":\"\"}\n"),
            ("manager", "record.damaged", "x"),
            ("self-update", "slots", ""),
            ("self-update", "slots", "{}"),
            ("flasher", "touched/adas", "pitstop"),
            ("hmi", "prompts/one", "pitstop 1 00\n{}"),
            ("hmi", "prompts/two", ""),
        ] {
            let dir = stored();
            storage(dir.path(), service).unwrap().replace(name, bytes.as_bytes()).unwrap();
            assert!(records(dir.path()).is_err(), "{service}/{name} {bytes:?}");
        }
    }
}
