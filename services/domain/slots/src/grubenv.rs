//! GRUB's environment block: 1024 bytes with one `name=value` line per variable.

use std::fmt;

/// Length of the file. GRUB accepts other lengths; `grub-editenv create` makes this one, and so do we.
pub const ENV_SIZE: usize = 1024;
/// All variables end before this offset: one disk sector, which a power cut leaves either old or new.
pub const USABLE_SIZE: usize = 512;

const HEADER: &[u8] = b"# GRUB Environment Block\n";

/// The variables of an environment block in the order of the file. Variables of others are kept byte for byte.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GrubEnv {
    variables: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why bytes are not an environment block, or variables do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrubEnvError {
    #[error("the environment block is {0} bytes long instead of {ENV_SIZE}")]
    Length(usize),
    #[error("the environment block does not begin with GRUB's signature line")]
    Signature,
    #[error("the line at offset {0} of the environment block has no name or no '='")]
    NoName(usize),
    #[error("the value at offset {0} of the environment block does not end with a newline")]
    Unterminated(usize),
    #[error("{0:?} cannot be the name of a variable: names are A-Z, a-z, 0-9 and _")]
    Name(String),
    #[error("the variables take {0} bytes, more than the {USABLE_SIZE} that are written in one piece")]
    Full(usize),
}

impl GrubEnv {
    /// Reads a whole block as GRUB does: comment lines are skipped, of two lines for one variable the later counts.
    pub fn decode(block: &[u8]) -> Result<Self, GrubEnvError> {
        if block.len() != ENV_SIZE {
            return Err(GrubEnvError::Length(block.len()));
        }
        let mut rest = block.strip_prefix(HEADER).ok_or(GrubEnvError::Signature)?;
        let mut env = Self::default();
        while let Some(&first) = rest.first() {
            rest = if first == b'#' { skip_comment(rest) } else { env.take_line(rest)? };
        }
        Ok(env)
    }

    fn take_line<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], GrubEnvError> {
        let offset = ENV_SIZE.saturating_sub(rest.len());
        let end = rest.iter().position(|&b| b == b'=' || b == b'\n').ok_or(GrubEnvError::NoName(offset))?;
        let (name, tail) = rest.split_at(end);
        let tail = tail.strip_prefix(b"=").filter(|_| !name.is_empty()).ok_or(GrubEnvError::NoName(offset))?;
        let mut value = Vec::new();
        let mut bytes = tail.iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'\n' => {
                    self.put(name, value);
                    return Ok(tail.get(at.saturating_add(1)..).unwrap_or_default());
                }
                // GRUB puts a backslash in front of backslash and newline, and takes any byte after one as it is.
                b'\\' => value.push(*bytes.next().ok_or(GrubEnvError::Unterminated(offset))?.1),
                other => value.push(other),
            }
        }
        Err(GrubEnvError::Unterminated(offset))
    }

    /// The block, padded with `#`. Refused with [`GrubEnvError::Full`] when a variable would leave the first sector.
    pub fn encode(&self) -> Result<[u8; ENV_SIZE], GrubEnvError> {
        let mut text = HEADER.to_vec();
        for (name, value) in &self.variables {
            text.extend_from_slice(name);
            text.push(b'=');
            for &byte in value {
                if byte == b'\\' || byte == b'\n' {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.push(b'\n');
        }
        if text.len() > USABLE_SIZE {
            return Err(GrubEnvError::Full(text.len()));
        }
        let mut block = [b'#'; ENV_SIZE];
        for (to, from) in block.iter_mut().zip(text) {
            *to = from;
        }
        Ok(block)
    }

    /// The value of `name`, without escapes.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.variables.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v.as_slice())
    }

    /// The value of `name` where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Sets `name`, in place when it exists, else at the end.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), GrubEnvError> {
        let legal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !legal {
            return Err(GrubEnvError::Name(name.to_owned()));
        }
        self.put(name.as_bytes(), value.as_bytes().to_vec());
        Ok(())
    }

    fn put(&mut self, name: &[u8], value: Vec<u8>) {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name.to_vec(), value)),
        }
    }

    /// Names and values in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.variables.iter().map(|(n, v)| (n.as_slice(), v.as_slice()))
    }
}

fn skip_comment(rest: &[u8]) -> &[u8] {
    match rest.iter().position(|&b| b == b'\n') {
        Some(end) => rest.get(end.saturating_add(1)..).unwrap_or_default(),
        None => &[],
    }
}

impl fmt::Debug for GrubEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(n, v)| (text(n), text(v)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(ENV_SIZE, b'#');
        bytes
    }

    #[test]
    fn a_block_made_by_grub_editenv_is_read() {
        // `grub-editenv create`, then `set ORDER="A B" A_OK=1 odd='a\b'`; newer versions add the warning line.
        let env = GrubEnv::decode(&block(
            "# GRUB Environment Block\n# WARNING: Do not edit this file by tools other than grub-editenv!!!\nORDER=A B\nA_OK=1\nodd=a\\\\b\n",
        ))
        .unwrap();
        assert_eq!(env.text("ORDER"), Some("A B"));
        assert_eq!(env.text("A_OK"), Some("1"));
        assert_eq!(env.text("odd"), Some("a\\b"));
        assert_eq!(env.text("B_OK"), None);
    }

    #[test]
    fn setting_keeps_the_place_and_what_belongs_to_others() {
        let mut env = GrubEnv::decode(&block("# GRUB Environment Block\nsaved_entry=3\nA_OK=0\nx=\\\n\\\\\n")).unwrap();
        env.set("A_OK", "1").unwrap();
        env.set("B_OK", "0").unwrap();
        let written = env.encode().unwrap();
        assert!(written.starts_with(b"# GRUB Environment Block\nsaved_entry=3\nA_OK=1\nx=\\\n\\\\\nB_OK=0\n###"));
        assert_eq!(GrubEnv::decode(&written).unwrap(), env);
    }

    #[test]
    fn what_is_no_block_is_refused_by_name() {
        assert_eq!(GrubEnv::decode(&[]), Err(GrubEnvError::Length(0)));
        assert_eq!(GrubEnv::decode(&[0; 1024]), Err(GrubEnvError::Signature));
        assert_eq!(GrubEnv::decode(&block("# GRUB Environment Block\nno equals\n")), Err(GrubEnvError::NoName(25)));
        assert_eq!(GrubEnv::decode(&block("# GRUB Environment Block\n=x\n")), Err(GrubEnvError::NoName(25)));
        assert_eq!(GrubEnv::decode(&block("# GRUB Environment Block\na=1\nb=2")), Err(GrubEnvError::Unterminated(29)));
        assert_eq!(GrubEnv::default().set("a b", "1"), Err(GrubEnvError::Name("a b".into())));
    }

    #[test]
    fn no_variable_leaves_the_first_sector() {
        let mut env = GrubEnv::default();
        env.set("a", &"x".repeat(USABLE_SIZE - 25 - 3)).unwrap();
        assert_eq!(env.encode().unwrap()[USABLE_SIZE - 1], b'\n');
        env.set("b", "").unwrap();
        assert_eq!(env.encode(), Err(GrubEnvError::Full(USABLE_SIZE + 3)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_set_is_read_back(vars in prop::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,8}", "[ -~\n\\\\]{0,20}", 0..12)) {
            let mut env = GrubEnv::default();
            for (name, value) in &vars {
                env.set(name, value).unwrap();
            }
            if let Ok(block) = env.encode() {
                prop_assert_eq!(GrubEnv::decode(&block).unwrap(), env);
                prop_assert!(block[USABLE_SIZE..].iter().all(|&b| b == b'#'));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(prop_oneof![Just(b'='), Just(b'\n'), Just(b'\\'), Just(b'#'), any::<u8>()], 0..999)) {
            bytes.splice(0..0, HEADER.iter().copied());
            bytes.resize(ENV_SIZE, b'#');
            if let Ok(env) = GrubEnv::decode(&bytes) && let Ok(block) = env.encode() {
                prop_assert_eq!(GrubEnv::decode(&block).unwrap(), env);
            }
        }
    }
}
