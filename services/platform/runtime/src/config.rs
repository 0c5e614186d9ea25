use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Longest configuration file that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;

/// What is wrong with a service's configuration, and in which file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is longer than {MAX_CONFIG_BYTES} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error("{} is not TOML", .path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the merged configuration of {service} (vendor {}, own {}) is wrong", .vendor.display(), .own.display())]
    Content { service: String, vendor: PathBuf, own: PathBuf, source: Box<toml::de::Error> },
}

/// The vendor's defaults (`usr/lib/pitstop/SERVICE.toml`) with the integrator's overrides (`etc/pitstop/SERVICE.toml`) laid over
/// them, key by key. Either may be absent. `T` denies unknown keys.
pub fn load<T: DeserializeOwned>(root: &Path, service: &str) -> Result<T, ConfigError> {
    let vendor = root.join(format!("usr/lib/pitstop/{service}.toml"));
    let own = root.join(format!("etc/pitstop/{service}.toml"));
    let mut merged = read(&vendor)?;
    lay_over(&mut merged, read(&own)?);
    let service = service.to_owned();
    toml::Value::Table(merged).try_into().map_err(|source| ConfigError::Content {
        service,
        vendor,
        own,
        source: Box::new(source),
    })
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(toml::Table::new()),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.len() > MAX_CONFIG_BYTES => return Err(ConfigError::TooLong { path: path.to_owned() }),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        a: u32,
        deep: Deep,
    }
    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Deep {
        b: u32,
        c: u32,
    }

    fn with(vendor: &str, own: &str) -> Result<Sample, ConfigError> {
        let root = tempfile::tempdir().unwrap();
        for (folder, text) in [("usr/lib/pitstop", vendor), ("etc/pitstop", own)] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::write(root.path().join(folder).join("x.toml"), text).unwrap();
        }
        load(root.path(), "x")
    }

    #[test]
    fn overrides_lie_over_defaults_key_by_key() {
        let got = with("a = 1\n[deep]\nb = 2\nc = 3", "[deep]\nc = 4").unwrap();
        assert_eq!(got, Sample { a: 1, deep: Deep { b: 2, c: 4 } });
    }

    #[test]
    fn an_unknown_key_and_bad_toml_are_refused_by_name() {
        assert!(matches!(with("a = 1\nz = 1\n[deep]\nb = 2\nc = 3", ""), Err(ConfigError::Content { .. })));
        assert!(matches!(with("a = ", ""), Err(ConfigError::Syntax { .. })));
    }
}
