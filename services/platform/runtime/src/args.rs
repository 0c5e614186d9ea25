use std::path::PathBuf;

/// Command line of a service: `[--root DIR] [more]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Folder below which all of a service's files lie; `/` in a vehicle.
    pub root: PathBuf,
    /// What the service itself understands.
    pub rest: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    #[error("--root needs a folder; write --root DIR")]
    RootWithoutFolder,
}

impl Args {
    /// Takes `--root DIR` out of the words after the service's name.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut parsed = Self { root: PathBuf::from("/"), rest: Vec::new() };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--root" {
                parsed.root = words.next().ok_or(ArgsError::RootWithoutFolder)?.into();
            } else if let Some(folder) = word.strip_prefix("--root=") {
                parsed.root = folder.into();
            } else {
                parsed.rest.push(word);
            }
        }
        Ok(parsed)
    }

    /// The word after `name`, for a service's own options.
    pub fn option(&self, name: &str) -> Option<&str> {
        let at = self.rest.iter().position(|w| w == name)?;
        self.rest.get(at + 1).map(String::as_str)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.rest.iter().any(|w| w == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_taken_and_the_rest_is_left_to_the_service() {
        let args = Args::parse(["--listen", "x", "--root", "/r", "--json"].map(String::from)).unwrap();
        assert_eq!(args.root, PathBuf::from("/r"));
        assert_eq!(args.option("--listen"), Some("x"));
        assert!(args.flag("--json"));
        assert_eq!(Args::parse(["--root".to_owned()]), Err(ArgsError::RootWithoutFolder));
    }
}
