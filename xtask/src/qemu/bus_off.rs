//! A CAN controller that goes off its bus in the middle of the flashing: QEMU's make no errors of their own, so a kernel module does
//! what the driver would do (`qemu/bus-off/`).

#![expect(clippy::indexing_slicing, reason = "JSON answers: a key that is absent reads as null")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::host::Host;
use super::scenario;
use super::story::{Extras, Story};
use crate::image::{Paths, kernel_version};
use crate::shell::{Failure, Outcome, output, step, workspace};

/// How often the bus is lost in one update.
const TIMES: usize = 3;
/// Takes can0 off its bus, gives `restart-ms` (100) time enough, and tells the interface's state and counters.
const TAKE_OFF: &str =
    "insmod /run/bus_off.ko interface=can0 && rmmod bus_off && sleep 1 && ip -json -statistics -details link show can0";

/// The module, built for the image's kernel with Debian's headers, which are installed when they are not there.
pub fn module(paths: &Paths) -> Result<PathBuf, Failure> {
    let version = kernel_version(&paths.tree())?;
    let headers = PathBuf::from(format!("/usr/src/linux-headers-{version}"));
    if !headers.join("Makefile").is_file() || !Path::new("/usr/bin/make").is_file() {
        step("package lists", Command::new("apt-get").args(["update", "-qq"]))?;
        let packages = ["make".to_owned(), format!("linux-headers-{version}")];
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
        step("headers of the image's kernel", install.args(packages))?;
    }
    let dir = paths.dir.join("bus-off");
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    for file in ["Kbuild", "bus_off.c"] {
        fs::copy(workspace().join("qemu/bus-off").join(file), dir.join(file)).map_err(failed)?;
    }
    output(Command::new("make").arg("-sC").arg(&headers).arg(format!("M={}", dir.display())).arg("modules"))?;
    Ok(dir.join("bus_off.ko"))
}

/// For a shell of the guest: takes the module from this disk.
pub fn take_from(device: &str, module: &Path) -> Result<String, Failure> {
    let length = fs::metadata(module).map_err(|e| Failure::new(format!("{}: {e}", module.display())))?.len();
    Ok(format!("head -c {length} {device} > /run/bus_off.ko"))
}

/// A bus-off, seen by an application, ended by the kernel and counted.
pub const SEEN: &str = "(sleep 1; insmod /run/bus_off.ko interface=can0; rmmod bus_off) & \
                        timeout 15 candump -e -n 2 can0,0~0,#FFFFFFFF; wait";

/// Whether the interface has been off its bus so often, and is back each time.
pub fn came_back(link: &Value, times: usize) -> bool {
    let (state, counters) = (&link[0]["linkinfo"]["info_data"], &link[0]["linkinfo"]["info_xstats"]);
    state["state"] == "ERROR-ACTIVE" && counters["bus_off"] == times && counters["restarts"] == times
}

/// A whole update, during which the classic bus is lost again and again.
pub fn tell(paths: &Paths, as_json: bool) -> Outcome {
    let module = module(paths)?;
    let extras = Extras { disks: vec![module.clone()], ..Extras::default() };
    let names = ("bus-off", "/update/outcome");
    scenario::tell_by(paths, names, as_json, &extras, |story, host| follow(paths, story, host, &module))
}

fn follow(paths: &Paths, story: &mut Story, host: &mut Host, module: &Path) -> Result<Value, Failure> {
    story.provision(&host.token)?;
    let factory = story.ecus()?;
    story.must(&take_from("/dev/vdb", module)?)?;
    story.disturb_flashing(TAKE_OFF, TIMES);
    let update = scenario::update(story, host, &scenario::good(paths), &factory)?;
    let links: Vec<Value> =
        story.disturbed().iter().filter_map(|said| serde_json::from_str(said.trim()).ok()).collect();
    let back = links.len() == TIMES && links.iter().zip(1..).all(|(link, times)| came_back(link, times));
    Ok(json!({ "ok": update["ok"] == true && back, "links": links, "update": update }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_back_when_the_kernel_restarted_it_as_often_as_it_was_lost() {
        let link = |state: &str, off: u32, restarts: u32| {
            let counters = json!({ "restarts": restarts, "bus_error": 0, "bus_off": off });
            json!([{ "linkinfo": { "info_data": { "state": state }, "info_xstats": counters } }])
        };
        assert!(came_back(&link("ERROR-ACTIVE", 2, 2), 2));
        assert!(!came_back(&link("BUS-OFF", 2, 1), 2));
        assert!(!came_back(&link("ERROR-ACTIVE", 1, 1), 2));
        assert!(!came_back(&json!([]), 0));
    }
}
