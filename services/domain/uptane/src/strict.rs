//! Reading JSON of others: nothing that two readers could understand differently.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 32;
/// Largest magnitude of a number that every JSON reader keeps exactly.
pub const MAX_NUMBER: u64 = 1 << 53;

/// Most values in one file. The leanest genuine targets have one in 26 bytes, so the largest file has 80 000.
pub const MAX_VALUES: usize = 100_000;
/// Most objects among them. Each takes 0.7 kB of memory however little stands in it, 20 MB together; genuine targets have four for
/// an entry of 330 bytes, so the largest file has 26 000.
pub const MAX_OBJECTS: usize = 30_000;

/// Why bytes are not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    #[error("{length} bytes long, at most {limit} are read")]
    Oversized { length: usize, limit: usize },
    #[error("it has more than {MAX_VALUES} values, or more than {MAX_OBJECTS} objects")]
    TooManyValues,
    #[error("not strict JSON: {0}")]
    Syntax(String),
}

/// Reads one JSON value. Refused are: more than `limit` bytes (before anything is parsed), a name twice in one object, fractions
/// and exponents, numbers beyond 2^53, nesting deeper than [`MAX_DEPTH`], more values than [`MAX_VALUES`] or objects than
/// [`MAX_OBJECTS`] (few bytes may stand for much memory, and no signature was looked at yet), and anything after the value.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Value, StrictError> {
    if bytes.len() > limit {
        return Err(StrictError::Oversized { length: bytes.len(), limit });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let syntax = |error: serde_json::Error| StrictError::Syntax(error.to_string());
    let count = Count::default();
    let value = Node { depth: 0, count: &count }.deserialize(&mut reader).map_err(|error| match count.exceeded() {
        true => StrictError::TooManyValues,
        false => syntax(error),
    })?;
    reader.end().map_err(syntax)?;
    Ok(value)
}

/// What was read so far.
#[derive(Default)]
struct Count {
    values: Cell<usize>,
    objects: Cell<usize>,
}

impl Count {
    fn exceeded(&self) -> bool {
        self.values.get() > MAX_VALUES || self.objects.get() > MAX_OBJECTS
    }

    fn add<E: serde::de::Error>(&self, what: &Cell<usize>) -> Result<(), E> {
        what.set(what.get().saturating_add(1));
        if self.exceeded() { Err(E::custom(StrictError::TooManyValues)) } else { Ok(()) }
    }
}

/// One value at some depth.
struct Node<'c> {
    depth: usize,
    count: &'c Count,
}

impl Node<'_> {
    fn child<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, count: self.count })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count.add(&self.count.values)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without fractions")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_NUMBER {
            return Err(E::custom("a number beyond 2^53"));
        }
        Ok(Value::from(value))
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_NUMBER {
            return Err(E::custom("a number beyond 2^53"));
        }
        Ok(Value::from(value))
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("a number that is no plain integer"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.child()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.count.add(&self.count.objects)?;
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.child()?)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice in one object"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value, StrictError> {
        parse(text.as_bytes(), 1024)
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            "1.0",
            "1e3",
            "-0",
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551616",
            "NaN",
            "{} {}",
            "{} x",
            "",
            "[1,]",
            r#""\ud800""#,
            "\"\n\"",
            "{1:2}",
            "// c\n1",
            "\u{feff}{}",
        ] {
            assert!(matches!(read(bad), Err(StrictError::Syntax(_))), "{bad:?}");
        }
        assert_eq!(read("9007199254740992").unwrap(), Value::from(MAX_NUMBER));
        assert_eq!(read(" [null, true, -3] ").unwrap(), serde_json::json!([null, true, -3]));
    }

    #[test]
    fn length_is_judged_before_anything_is_parsed() {
        assert_eq!(parse(&[b'['; 11], 10), Err(StrictError::Oversized { length: 11, limit: 10 }));
    }

    #[test]
    fn nesting_ends_at_thirty_two() {
        let nest = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(read(&nest(MAX_DEPTH)).is_ok());
        assert!(read(&nest(MAX_DEPTH + 1)).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), 1 << 20).is_err());
    }

    #[test]
    fn values_and_objects_are_counted_however_deep_they_lie() {
        let list = |item: &str, count: usize| format!("[[{}]]", vec![item; count].join(","));
        let read = |text: String| parse(text.as_bytes(), usize::MAX).map(drop);
        // The two lists around them count as well.
        assert_eq!(read(list("1", MAX_VALUES - 2)), Ok(()));
        assert_eq!(read(list("1", MAX_VALUES - 1)), Err(StrictError::TooManyValues));
        assert_eq!(read(list("{}", MAX_OBJECTS)), Ok(()));
        assert_eq!(read(list("{}", MAX_OBJECTS + 1)), Err(StrictError::TooManyValues));
        assert_eq!(read(list(r#"{"a":{"a":1}}"#, MAX_OBJECTS / 2 + 1)), Err(StrictError::TooManyValues));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, 150);
        }

        #[test]
        fn json_like_text_never_panics_and_what_is_read_reads_the_same_again(text in r#"[\[\]{}",:0-9a-z\\ .eu-]{0,60}"#) {
            if let Ok(value) = parse(text.as_bytes(), 1024) {
                let again = serde_json::to_vec(&value).unwrap();
                prop_assert_eq!(parse(&again, 4096).unwrap(), value);
            }
        }
    }
}
