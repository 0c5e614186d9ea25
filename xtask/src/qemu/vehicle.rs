//! The whole vehicle for a person: the TCU's console is the terminal, backend and control units are around it, and an update waits.

use std::process::{Command, Stdio};

use super::host::Host;
use super::machine::{Console, Machine, Options};
use super::shell::Shell;
use super::{ANSWER_LIMIT, BOOT_LIMIT, scenario, story};
use crate::image::{AFTER, Paths};
use crate::shell::{Outcome, output};

pub fn run(paths: &Paths, build: bool) -> Outcome {
    if build {
        scenario::build()?;
    }
    let mut host = Host::start(paths)?;
    // Before QEMU has the terminal: from then on only the guest writes there.
    eprintln!("==> starting; when all services run, the console says what to type (ssh: qemu/README.md)");
    let terminal = Terminal::keep();
    let options =
        Options { dir: paths.dir.join("vehicle"), fresh: true, console: Console::Terminal, disks: Vec::new() };
    let ended = drive(paths, &mut host, &options);
    if ended.is_err() {
        terminal.restore();
    }
    ended
}

/// Dropping the machine, as every error here does, ends it.
fn drive(paths: &Paths, host: &mut Host, options: &Options) -> Outcome {
    let mut machine = Machine::start(paths, options)?;
    let mut shell = machine.up(BOOT_LIMIT)?;
    prepare(paths, host, &mut shell)?;
    drop(shell);
    machine.wait()
}

fn prepare(paths: &Paths, host: &mut Host, shell: &mut Shell) -> Outcome {
    shell.must(&story::provisioning(&host.token), ANSWER_LIMIT)?;
    shell.must("pitstopctl --json check", ANSWER_LIMIT)?;
    host.ask(&format!("campaign {}", paths.bundle(AFTER).display()))?;
    shell.must(&on_console(&host.page), ANSWER_LIMIT).map(drop)
}

/// Writes on the guest's console what a person can do now. The guest's own terminal driver sets the line ends.
fn on_console(page: &str) -> String {
    let lines = [
        "",
        "Provisioned, and a campaign waits; 'pitstopctl check' asks the backend for it at once. Then:",
        "  pitstopctl status | pitstopctl prompt | pitstopctl approve | pitstopctl watch",
        &format!("The backend's page: {page}"),
        "'systemctl poweroff' ends the machine.",
    ];
    let words = lines.map(|line| format!("'{}'", line.replace('\'', r"'\''")));
    format!("printf '%s\\n' {} > /dev/ttyS0", words.join(" "))
}

/// The terminal's settings, which a QEMU that is killed leaves raw.
struct Terminal(Option<String>);

impl Terminal {
    fn keep() -> Self {
        let settings = Command::new("stty").arg("-g").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
        let settings = settings.ok().filter(|out| out.status.success());
        Self(settings.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }

    fn restore(&self) {
        if let Some(settings) = &self.0 {
            let _ = output(Command::new("stty").arg(settings).stdin(Stdio::inherit()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_told_what_to_do_and_where_the_page_is() {
        let command = on_console("http://operator:it's@127.0.0.1:1/");
        // One line, because a shell's second line would be answered by a prompt.
        assert!(command.ends_with(" > /dev/ttyS0") && !command.contains('\n'), "{command}");
        let said = output(Command::new("sh").args(["-c", command.trim_end_matches(" > /dev/ttyS0")])).unwrap();
        assert!(said.contains("The backend's page: http://operator:it's@127.0.0.1:1/\n"), "{said}");
        assert!(
            ["status", "prompt", "approve", "watch"].iter().all(|word| said.contains(&format!("pitstopctl {word}")))
        );
    }
}
