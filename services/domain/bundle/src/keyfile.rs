//! A strict reader and writer of GKeyFile text, the form of RAUC's manifests, on the `toml` crate's data model.
//!
//! Key files look like TOML and are not: values have no quotes, all are text, `[image.rootfs]` is one group name. What is read becomes a
//! `toml::Table` of tables of strings, so that serde makes types of it; a dotted group is nested once, at its first dot.
//! Stricter than GLib where a signed text needs no leniency: no group or key twice, no localised keys, no control characters.

use toml::{Table, Value};

/// Longest text read, in bytes; the same as the largest CMS structure it can come in.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most groups in one text.
pub const MAX_GROUPS: usize = 128;
/// Most keys in one group.
pub const MAX_KEYS: usize = 128;

/// Why a text is not a key file this reader takes. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    #[error("the text is {0} bytes long, at most {MAX_TEXT} are read")]
    TooLong(usize),
    #[error("the text is not UTF-8")]
    NotUtf8,
    #[error("line {0} holds a control character")]
    Control(usize),
    #[error("line {0} is neither a group, nor a key with a value, nor a comment")]
    Line(usize),
    #[error("line {0} has a malformed group name")]
    GroupName(usize),
    #[error("line {0} repeats a group, or makes a group of what is a key already")]
    GroupTwice(usize),
    #[error("line {0} has a key before the first group")]
    NoGroup(usize),
    #[error("line {0} has a malformed key")]
    KeyName(usize),
    #[error("line {0} repeats a key of its group")]
    KeyTwice(usize),
    #[error("line {0} has an escape that is none of \\s \\n \\t \\r \\\\")]
    Escape(usize),
    #[error("line {0} has a key without a value")]
    EmptyValue(usize),
    #[error("the text has more than {MAX_GROUPS} groups or more than {MAX_KEYS} keys in one")]
    TooMany,
    #[error("{0:?} cannot be written as a group, key or value of a key file")]
    Unwritable(String),
}

/// Reads `bytes` into a table of groups.
pub fn read(bytes: &[u8]) -> Result<Table, KeyFileError> {
    if bytes.len() > MAX_TEXT {
        return Err(KeyFileError::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| KeyFileError::NotUtf8)?;
    let mut reader = Reader::default();
    for (index, line) in text.split('\n').enumerate() {
        reader.line(index + 1, line.strip_suffix('\r').unwrap_or(line))?;
    }
    Ok(reader.groups)
}

#[derive(Default)]
struct Reader {
    groups: Table,
    group_count: usize,
    current: Option<(String, Option<String>)>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), KeyFileError> {
        let line = line.trim_start_matches([' ', '\t']);
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(KeyFileError::Control(number));
        }
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.trim_end_matches([' ', '\t']).strip_suffix(']').ok_or(KeyFileError::GroupName(number))?;
            return self.group(number, name);
        }
        let (key, value) = line.split_once('=').ok_or(KeyFileError::Line(number))?;
        let value = unescape(value.trim_start_matches([' ', '\t'])).ok_or(KeyFileError::Escape(number))?;
        self.key(number, key.trim_end_matches([' ', '\t']), value)
    }

    fn group(&mut self, number: usize, name: &str) -> Result<(), KeyFileError> {
        if !is_group_name(name) {
            return Err(KeyFileError::GroupName(number));
        }
        self.group_count += 1;
        if self.group_count > MAX_GROUPS {
            return Err(KeyFileError::TooMany);
        }
        let (outer, inner) = match name.split_once('.') {
            Some((outer, inner)) => (outer.to_owned(), Some(inner.to_owned())),
            None => (name.to_owned(), None),
        };
        let fresh = match &inner {
            None => self.groups.insert(outer.clone(), Value::Table(Table::new())).is_none(),
            Some(inner) => {
                let slot = self.groups.entry(outer.clone()).or_insert_with(|| Value::Table(Table::new()));
                slot.as_table_mut().is_some_and(|t| t.insert(inner.clone(), Value::Table(Table::new())).is_none())
            }
        };
        self.current = Some((outer, inner));
        if fresh { Ok(()) } else { Err(KeyFileError::GroupTwice(number)) }
    }

    fn key(&mut self, number: usize, key: &str, value: String) -> Result<(), KeyFileError> {
        if !is_key_name(key) {
            return Err(KeyFileError::KeyName(number));
        }
        if value.is_empty() {
            return Err(KeyFileError::EmptyValue(number));
        }
        let (outer, inner) = self.current.as_ref().ok_or(KeyFileError::NoGroup(number))?;
        let mut table = self.groups.get_mut(outer).and_then(Value::as_table_mut);
        if let Some(inner) = inner {
            table = table.and_then(|t| t.get_mut(inner)).and_then(Value::as_table_mut);
        }
        let table = table.ok_or(KeyFileError::NoGroup(number))?;
        if table.len() >= MAX_KEYS {
            return Err(KeyFileError::TooMany);
        }
        match table.insert(key.to_owned(), Value::String(value)) {
            None => Ok(()),
            Some(_) => Err(KeyFileError::KeyTwice(number)),
        }
    }
}

/// Writes a table of groups (nested at most once) of strings, in the table's order.
pub fn write(groups: &Table) -> Result<String, KeyFileError> {
    let mut out = String::new();
    for (name, value) in groups {
        let table = value.as_table().ok_or_else(|| KeyFileError::Unwritable(name.clone()))?;
        let nested = !table.is_empty() && table.values().all(Value::is_table);
        if !nested {
            write_group(&mut out, name, table)?;
            continue;
        }
        for (inner, value) in table {
            let full = format!("{name}.{inner}");
            let table = value.as_table().ok_or_else(|| KeyFileError::Unwritable(full.clone()))?;
            write_group(&mut out, &full, table)?;
        }
    }
    Ok(out)
}

fn write_group(out: &mut String, name: &str, table: &Table) -> Result<(), KeyFileError> {
    if !is_group_name(name) {
        return Err(KeyFileError::Unwritable(name.to_owned()));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("[{name}]\n"));
    for (key, value) in table {
        let value = value.as_str().filter(|v| is_writable(v)).ok_or_else(|| KeyFileError::Unwritable(key.clone()))?;
        if !is_key_name(key) {
            return Err(KeyFileError::Unwritable(key.clone()));
        }
        out.push_str(&format!("{key}={}\n", escape(value)));
    }
    Ok(())
}

// Control characters other than those with an escape have no place in a manifest.
fn is_writable(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r'))
}

// GLib allows more in group names; RAUC's own groups and labels need no more than this.
fn is_group_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.');
    !name.is_empty() && name.chars().all(legal) && name.split('.').all(|part| !part.is_empty())
}

fn is_key_name(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                's' => ' ',
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut leading = true;
    for c in value.chars() {
        match c {
            ' ' if leading => out.push_str("\\s"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
        // As GLib: only white space at the front would be lost, so only that is escaped.
        leading &= c == ' ';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_keys_comments_and_escapes_are_read() {
        let table =
            read(b"# hello\n[update]\ncompatible = a b\\sc\\n\n\n[image.rootfs]\r\nfilename=x.ext4\n[meta.a]\nk=v=w\n")
                .unwrap();
        assert_eq!(table["update"]["compatible"].as_str(), Some("a b c\n"));
        assert_eq!(table["image"]["rootfs"]["filename"].as_str(), Some("x.ext4"));
        assert_eq!(table["meta"]["a"]["k"].as_str(), Some("v=w"));
    }

    #[test]
    fn what_is_out_of_form_is_named_with_its_line() {
        for (text, error) in [
            ("a=b", KeyFileError::NoGroup(1)),
            ("[a]\nb", KeyFileError::Line(2)),
            ("[a]\nb=", KeyFileError::EmptyValue(2)),
            ("[a]\nb=1\nb=2", KeyFileError::KeyTwice(3)),
            ("[a]\n[a]", KeyFileError::GroupTwice(2)),
            ("[a]\nb=c\n[a.b]\n", KeyFileError::GroupTwice(3)),
            ("[a.b]\n[a]", KeyFileError::GroupTwice(2)),
            ("[a]\nb=\\;", KeyFileError::Escape(2)),
            ("[a]\nb=\\", KeyFileError::Escape(2)),
            ("[a]\nb[de]=c", KeyFileError::KeyName(2)),
            ("[a", KeyFileError::GroupName(1)),
            ("[]", KeyFileError::GroupName(1)),
            ("[a..b]", KeyFileError::GroupName(1)),
            ("[a]\nb=\0", KeyFileError::Control(2)),
        ] {
            assert_eq!(read(text.as_bytes()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn limits_hold() {
        assert_eq!(read(&vec![b'#'; MAX_TEXT + 1]), Err(KeyFileError::TooLong(MAX_TEXT + 1)));
        let many: String = (0..=MAX_GROUPS).map(|i| format!("[g{i}]\n")).collect();
        assert_eq!(read(many.as_bytes()), Err(KeyFileError::TooMany));
        let many: String = (0..=MAX_KEYS).fold("[g]\n".into(), |s, i| s + &format!("k{i}=v\n"));
        assert_eq!(read(many.as_bytes()), Err(KeyFileError::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(groups in prop::collection::btree_map("[a-z]{1,6}(\\.[a-z]{1,6})?",
                prop::collection::btree_map("[a-z-]{1,8}", "[ -~\n\té]{1,20}", 0..4), 1..6)) {
            let mut table = Table::new();
            for (name, keys) in groups {
                let keys: Table = keys.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
                match name.split_once('.') {
                    None => { table.entry(name).or_insert(Value::Table(keys)); }
                    Some((outer, inner)) => {
                        let slot = table.entry(outer.to_owned()).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap();
                        // A plain group of the same name was there first: such a table is not made by the reader.
                        if slot.values().all(Value::is_table) { slot.insert(inner.to_owned(), Value::Table(keys)); }
                    }
                }
            }
            prop_assert_eq!(read(write(&table).unwrap().as_bytes()), Ok(table));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(\\[|\\]|=|\n|\\\\|[a-z.]|\\PC){0,120}") {
            if let Ok(table) = read(text.as_bytes()) { let _ = write(&table); }
        }
    }
}
