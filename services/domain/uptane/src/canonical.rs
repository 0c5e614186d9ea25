//! OLPC canonical JSON: the bytes a signature covers.
//!
//! Not RFC 8785: names are sorted by code point, only `"` and `\` are escaped (so the result need not be JSON: a line break
//! stands there as it is), there are no fractions and no white space.

use serde_json::{Map, Value};

/// A number that canonical JSON cannot write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("canonical JSON has no number {0}")]
pub struct CanonicalError(String);

/// The canonical bytes of `value`.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    write(&mut out, value)?;
    Ok(out)
}

fn write(out: &mut Vec<u8>, value: &Value) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::Number(number) => return Err(CanonicalError(number.to_string())),
        Value::String(text) => write_text(out, text),
        Value::Array(list) => write_list(out, list)?,
        Value::Object(map) => write_object(out, map)?,
    }
    Ok(())
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn write_list(out: &mut Vec<u8>, list: &[Value]) -> Result<(), CanonicalError> {
    out.push(b'[');
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item)?;
    }
    out.push(b']');
    Ok(())
}

fn write_object(out: &mut Vec<u8>, map: &Map<String, Value>) -> Result<(), CanonicalError> {
    // Sorted here, because serde_json keeps another order when some crate switches that feature on.
    // UTF-8 sorts as its code points do.
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    out.push(b'{');
    for (index, (name, item)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write(out, item)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        String::from_utf8(to_bytes(value).unwrap()).unwrap()
    }

    #[test]
    fn names_are_sorted_and_only_quote_and_backslash_escaped() {
        let value =
            json!({"b": [1, -2, null, true, false], "a": "x\"\\\n\u{e9}", "\u{10000}": 1, "\u{ffff}": 2, "": {}});
        assert_eq!(
            text(&value),
            "{\"\":{},\"a\":\"x\\\"\\\\\n\u{e9}\",\"b\":[1,-2,null,true,false],\"\u{ffff}\":2,\"\u{10000}\":1}"
        );
        assert!(to_bytes(&json!(1.5)).is_err());
    }

    proptest! {
        #[test]
        fn two_objects_have_the_same_bytes_only_if_they_are_equal(a in "[ab\"\\\\\n]{0,6}", b in "[ab\"\\\\\n]{0,6}") {
            let (left, right) = (json!({ "k": a.clone(), "l": b.clone() }), json!({ "l": a.clone(), "k": b.clone() }));
            prop_assert_eq!(to_bytes(&left).unwrap() == to_bytes(&right).unwrap(), a == b);
        }
    }
}
