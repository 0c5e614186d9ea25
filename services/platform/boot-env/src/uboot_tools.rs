//! U-Boot's environment through `fw_printenv` and `fw_setenv`, which know where it lies (`/etc/fw_env.config`).
//!
//! Three variables change by one `fw_setenv -s`: with a redundant environment that is one write which the boot loader sees
//! whole or not at all. Single calls per variable would show it states in between.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use pitstop_slots::{BootVars, SlotPair, UbootVars, VarsError};
use pitstop_types::SlotName;

use crate::{BootEnv, BootEnvError};

/// What stands between name and value in the script that `fw_setenv -s` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// libubootenv, which Yocto and Debian ship.
    Equals,
    /// The tool in U-Boot's own tree.
    Space,
}

/// The two programs and the slots.
#[derive(Debug, Clone)]
pub struct UbootTools {
    pub fw_printenv: PathBuf,
    pub fw_setenv: PathBuf,
    pub separator: Separator,
    pub slots: SlotPair,
}

impl UbootTools {
    /// Runs `command` with `input` on its standard input. The tools lock the environment themselves.
    fn run(mut command: Command, input: &str) -> Result<Output, BootEnvError> {
        let tool = command.get_program().to_string_lossy().into_owned();
        let failed = |source| BootEnvError::Tool { tool: tool.clone(), source };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C")
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // A tool that does not read its input says why by its status.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(failed(error)),
                _ => {}
            }
        }
        child.wait_with_output().map_err(failed)
    }

    fn check(&self, tool: &std::path::Path, output: &Output) -> Result<(), BootEnvError> {
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect();
        Err(BootEnvError::ToolFailed { tool: tool.display().to_string(), status: output.status.to_string(), stderr })
    }
}

impl BootEnv for UbootTools {
    fn load(&self) -> Result<BootVars, BootEnvError> {
        // All variables are asked for: asked for one by one, the tool fails when a variable is not there yet.
        let output = Self::run(Command::new(&self.fw_printenv), "")?;
        self.check(&self.fw_printenv, &output)?;
        Ok(BootVars::Uboot(UbootVars::read(&String::from_utf8_lossy(&output.stdout), &self.slots)))
    }

    fn store(&self, vars: &BootVars) -> Result<(), BootEnvError> {
        let BootVars::Uboot(wanted) = vars else {
            return Err(VarsError::OtherBootLoader.into());
        };
        let separator = match self.separator {
            Separator::Equals => '=',
            Separator::Space => ' ',
        };
        let mut command = Command::new(&self.fw_setenv);
        // Not `-`: libubootenv before 0.3.3 takes that for a file name.
        command.args(["-s", "/dev/stdin"]);
        let output = Self::run(command, &wanted.script(separator))?;
        self.check(&self.fw_setenv, &output)?;
        // Lines a tool does not understand it skips without a word.
        if self.load()? == *vars {
            Ok(())
        } else {
            Err(BootEnvError::NotWritten { tool: self.fw_setenv.display().to_string() })
        }
    }

    /// U-Boot keeps its copies equal itself, and writes its built-in defaults when both are lost.
    fn mend(&self, _booted: &SlotName) -> Result<bool, BootEnvError> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    /// Tools as shell scripts around one file, with the separator they understand.
    fn tools(folder: &std::path::Path, understood: char) -> UbootTools {
        let script = |file: &str, text: String| {
            let path = folder.join(file);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let env = folder.join("env").display().to_string();
        std::fs::write(folder.join("env"), "bootdelay=2\n").unwrap();
        let set = format!(
            "#!/bin/sh\n[ \"$1\" = -s ] || exit 1\nwhile read -r line; do case \"$line\" in *'{understood}'*) n=\"${{line%%{understood}*}}\"; v=\"${{line#*{understood}}}\"\n\
             grep -v \"^$n=\" {env} > {env}.new; echo \"$n=$v\" >> {env}.new; mv {env}.new {env};; esac; done < \"$2\"\n"
        );
        UbootTools {
            fw_printenv: script("fw_printenv", format!("#!/bin/sh\ncat {env}\n")),
            fw_setenv: script("fw_setenv", set),
            separator: Separator::Equals,
            slots: SlotPair::new(name("A"), name("B")).unwrap(),
        }
    }

    #[test]
    fn all_variables_change_by_one_call_and_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let tools = tools(folder.path(), '=');
        tools.change(|vars| vars.try_once(&name("B"))).unwrap();
        assert_eq!(
            std::fs::read_to_string(folder.path().join("env")).unwrap(),
            "bootdelay=2\nBOOT_ORDER=B A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=1\n"
        );
        assert_eq!(tools.load().unwrap().primary(), Some(&name("B")));
    }

    #[test]
    fn a_tool_that_skips_our_script_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let tools = tools(folder.path(), '~');
        assert!(matches!(tools.change(|vars| vars.try_once(&name("B"))), Err(BootEnvError::NotWritten { .. })));
    }

    #[test]
    fn a_missing_tool_and_a_failing_tool_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = UbootTools { fw_printenv: folder.path().join("none"), ..tools(folder.path(), '=') };
        assert!(matches!(missing.load(), Err(BootEnvError::Tool { .. })));
        let failing = UbootTools { fw_printenv: "/bin/false".into(), ..missing };
        assert!(matches!(failing.load(), Err(BootEnvError::ToolFailed { .. })));
    }
}
