//! The list of crates that bitbake fetches, made from `Cargo.lock`.

use std::fmt::Write as _;

/// One crate of the registry as the lock file names it.
struct Locked<'l> {
    name: &'l str,
    version: &'l str,
    checksum: &'l str,
}

/// The text of `pitstop-crates.inc` for a lock file, or what in the lock file a recipe could not fetch.
///
/// The form is that of oe-core's task `update_crates`. Crates of other platforms stay in: cargo resolves the whole lock file.
pub fn list(lock: &str) -> Result<String, String> {
    let mut locked = Vec::new();
    for block in lock.split("[[package]]").skip(1) {
        let Some(source) = value(block, "source") else { continue };
        let (name, version) = (value(block, "name").unwrap_or_default(), value(block, "version").unwrap_or_default());
        if !source.starts_with("registry+") {
            return Err(format!(
                "{name} {version} comes from {source}; the recipes fetch from the crate registry only"
            ));
        }
        let checksum = value(block, "checksum").ok_or_else(|| format!("{name} {version} has no checksum"))?;
        locked.push(Locked { name, version, checksum });
    }
    let mut text =
        String::from("# Made from Cargo.lock by: cargo xtask yocto --write\n\n# from Cargo.lock\nSRC_URI += \"\\\n");
    for c in &locked {
        let _ = writeln!(text, "    crate://crates.io/{}/{} \\", c.name, c.version);
    }
    text.push_str("\"\n\n");
    for c in &locked {
        let _ = writeln!(text, "SRC_URI[{}-{}.sha256sum] = \"{}\"", c.name, c.version, c.checksum);
    }
    Ok(text)
}

/// The value of a line `key = "value"`.
fn value<'b>(block: &'b str, key: &str) -> Option<&'b str> {
    block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::workspace;

    #[test]
    fn the_crate_list_of_the_layer_is_that_of_cargo_lock() {
        let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
        let kept = std::fs::read_to_string(crate::yocto::layer().join(crate::yocto::CRATES)).unwrap();
        assert!(list(&lock).unwrap() == kept, "run: cargo xtask yocto --write");
    }

    #[test]
    fn own_crates_are_left_out_and_foreign_sources_refused() {
        let lock = "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\
            source = \"registry+https://registry.example/index\"\nchecksum = \"00ff\"\n";
        let text = list(lock).unwrap();
        assert!(
            text.contains("    crate://crates.io/a/1.2.3 \\\n")
                && text.contains("SRC_URI[a-1.2.3.sha256sum] = \"00ff\"")
        );
        assert!(!text.contains("ours"));
        let from_git = lock.replace("registry+https://registry.example/index", "git+https://example.com/a#1");
        assert!(list(&from_git).unwrap_err().contains("crate registry only"));
    }
}
