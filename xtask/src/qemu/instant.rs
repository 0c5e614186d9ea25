//! What a cut of the power would leave at one instant, and whether the TCU can go on from there.

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::host::Talk;
use super::volumes::{Volumes, check_data, check_esp};
use crate::image::{BEFORE, Paths, places};
use crate::shell::{Failure, Outcome, output};

/// A disk that follows a log, and what is known of it so far.
pub struct Judge {
    pub volumes: Volumes,
    records_of: Talk,
    scratch: Scratch,
    /// Slot, its partition, and the only image that it may start with.
    slots: [(&'static str, &'static str, PathBuf); 2],
    /// Slots that were compared with their image and not written to since.
    whole: BTreeSet<&'static str>,
    environment: Value,
    records: Value,
}

/// A disk that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Slots of the next starts, if nobody marks one good.
    pub starts: Vec<String>,
    /// The manager's phase.
    pub phase: String,
    /// The boot environment has changed.
    pub environment: bool,
}

impl Judge {
    /// Begins with this disk; `new` is the file system that an update writes into slot B.
    pub fn new(paths: &Paths, disk: &Path, new: &Path) -> Result<Self, Failure> {
        let scratch = Scratch::new()?;
        Ok(Self {
            volumes: Volumes::of(disk, &places(), &scratch.0)?,
            records_of: Talk::start("pitstop-qemu-judge", |_| ())?,
            slots: [("A", "slot-a", paths.slot(BEFORE)), ("B", "slot-b", new.to_owned())],
            scratch,
            whole: BTreeSet::new(),
            environment: Value::Null,
            records: Value::Null,
        })
    }

    /// Looks at what was written since the last look. `None`: nothing that the next start depends on.
    pub fn judge(&mut self) -> Result<Option<Seen>, Failure> {
        let dir = self.scratch.0.clone();
        let (esp, data) = (self.volumes.take_written("esp"), self.volumes.take_written("data"));
        let before = self.environment.clone();
        if esp {
            check_esp(&self.volumes.get("esp")?.path, &dir)?;
            self.environment = self.records_of.ask(&format!("environment {}", dir.display()))?;
        }
        if data {
            check_data(&self.volumes.get("data")?.path, &dir)?;
            let records = self.records_of.ask(&format!("records {}", dir.join("state").display()))?;
            let before = std::mem::replace(&mut self.records, records);
            check_kept(&before, &self.records)?;
        }
        let starts = starts(&self.environment);
        let slots = self.check_slots(&starts)?;
        check_direction(&starts, &self.records)?;
        if !esp && !data && !slots {
            return Ok(None);
        }
        let phase = self.records["phase"].as_str().unwrap_or("no update").to_owned();
        Ok(Some(Seen { starts, phase, environment: before != self.environment }))
    }

    /// Whatever may start must be whole. Answers whether one had to be compared.
    fn check_slots(&mut self, starts: &[String]) -> Result<bool, Failure> {
        let mut compared = false;
        for (slot, partition, image) in &self.slots {
            if self.volumes.take_written(partition) {
                self.whole.remove(slot);
            }
            if starts.iter().any(|start| start == slot) && !self.whole.contains(slot) {
                compared = true;
                if !self.volumes.get(partition)?.holds(image)? {
                    return Err(Failure::new(format!("slot {slot} may start, and does not hold {}", image.display())));
                }
                self.whole.insert(slot);
            }
        }
        Ok(compared)
    }
}

/// Judges a disk as the power left it.
pub fn judge(paths: &Paths, disk: &Path, new: &Path) -> Result<Seen, Failure> {
    let seen = Judge::new(paths, disk, new)?.judge()?;
    seen.ok_or_else(|| Failure::new("there is nothing on the disk"))
}

fn starts(environment: &Value) -> Vec<String> {
    let all = environment["starts"].as_array().into_iter().flatten();
    all.filter_map(|start| start["slot"].as_str().map(str::to_owned)).collect()
}

/// The record of the slots gives the direction: before the new slot is to be tried, and after it was accepted, nothing else starts.
fn check_direction(starts: &[String], records: &Value) -> Outcome {
    if starts.is_empty() {
        return Err(Failure::new("it is not known what starts"));
    }
    let settled = matches!(
        records["installation"].as_str(),
        None | Some("marking" | "writing" | "staged" | "failed" | "committed" | "rolled-back" | "fell-back")
    );
    // Before its first start self-update has no record.
    let committed = records["committed"].as_str().unwrap_or("A");
    if settled && starts.iter().any(|slot| slot != committed) {
        let installation = &records["installation"];
        return Err(Failure::new(format!(
            "{committed} is committed, installation {installation}, and {starts:?} start"
        )));
    }
    Ok(())
}

/// What was durable once stays: a record that is there is only ever replaced, and the history grows.
fn check_kept(before: &Value, now: &Value) -> Outcome {
    for record in ["phase", "committed", "installation"] {
        if !before[record].is_null() && now[record].is_null() {
            return Err(Failure::new(format!("{record} was {} and is not stored any more", before[record])));
        }
    }
    if now["ended"].as_u64() < before["ended"].as_u64() {
        return Err(Failure::new(format!("the history had {} entries and has {}", before["ended"], now["ended"])));
    }
    Ok(())
}

/// A folder for the disk's files, in memory where there is one: they are copied some thousand times.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let shared = Path::new("/dev/shm");
        let mut make = Command::new("mktemp");
        make.arg("-d");
        if shared.is_dir() {
            make.arg("-p").arg(shared);
        } else {
            make.arg("-t");
        }
        Ok(Self(PathBuf::from(output(make.arg("pitstop-flushes-XXXXXX"))?.trim())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_durable_must_stay() {
        let at = |phase: Option<&str>, ended| json!({ "phase": phase, "committed": "A", "installation": null, "ended": ended });
        assert!(check_kept(&Value::Null, &at(None, 0)).is_ok());
        assert!(check_kept(&at(Some("staging"), 0), &at(Some("trial"), 1)).is_ok());
        assert!(check_kept(&at(Some("staging"), 0), &at(None, 0)).is_err());
        assert!(check_kept(&at(Some("staging"), 1), &at(Some("staging"), 0)).is_err());
    }

    #[test]
    fn what_starts_must_go_with_the_record() {
        let check = |starts: &[&str], installation: Option<&str>, committed: &str| {
            let starts: Vec<_> = starts.iter().map(|slot| (*slot).to_owned()).collect();
            check_direction(&starts, &json!({ "installation": installation, "committed": committed })).is_ok()
        };
        assert!(check(&["A", "A", "A"], None, "A") && check(&["A", "A", "A"], Some("writing"), "A"));
        assert!(check(&["B", "A", "B"], Some("activated"), "A") && check(&["A", "B", "A"], Some("trial"), "A"));
        assert!(check(&["B", "B", "B"], Some("committed"), "B"));
        assert!(!check(&["A", "B", "A"], Some("writing"), "A"), "a slot that is being written may start");
        assert!(!check(&["B", "A", "B"], Some("committed"), "B"), "the old slot may start after the commit");
        assert!(!check(&[], None, "A"));
        assert!(check_direction(&["A".to_owned()], &Value::Null).is_ok(), "before the first start");
    }
}
