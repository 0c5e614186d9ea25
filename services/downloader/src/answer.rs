//! What a server's answer to "from this byte on, please" means. Pure: a head in, a verdict out.

/// Longest entity tag that is kept.
const MAX_ETAG: usize = 200;

/// The head of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub status: u16,
    /// Content-Length, where it is said.
    pub length: Option<u64>,
    /// Content-Range.
    pub range: Option<&'a str>,
    pub etag: Option<&'a str>,
}

/// What to do with the body, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The body continues what is there.
    GoesOn {
        etag: Option<String>,
    },
    /// The body is the whole file, from its start.
    Anew {
        etag: Option<String>,
    },
    /// A new link may help.
    LinkRefused,
    /// Trying again may help.
    Again(String),
    NotFound,
    /// The server's file is longer than what was decided.
    Longer(String),
    /// The server's file cannot be the one that was decided.
    Other(String),
}

/// Judges the answer to a request for the bytes from `have` to the end of a file of `length` bytes.
pub fn judge(head: &Head<'_>, have: u64, length: u64) -> Verdict {
    // A weak tag does not promise the same bytes (RFC 9110, 8.8.3 and 13.1.5).
    let etag = head.etag.filter(|e| e.len() <= MAX_ETAG && e.starts_with('"')).map(str::to_owned);
    match head.status {
        206 => judge_range(head, have, length, etag),
        200 => match head.length.filter(|total| *total != length) {
            Some(total) => wrong_length(total, length),
            None => Verdict::Anew { etag },
        },
        401 | 403 | 410 => Verdict::LinkRefused,
        404 => Verdict::NotFound,
        416 => Verdict::Other(format!("the server's file ends before byte {have}")),
        status => Verdict::Again(format!("the server answers {status}")),
    }
}

fn judge_range(head: &Head<'_>, have: u64, length: u64, etag: Option<String>) -> Verdict {
    let Some((start, end, total)) = head.range.and_then(content_range) else {
        return Verdict::Again("the server sends a part and does not say which".into());
    };
    if let Some(total) = total.filter(|total| *total != length) {
        return wrong_length(total, length);
    }
    if start != have || end >= length {
        return Verdict::Again(format!("asked for bytes from {have}, the server sends {start} to {end}"));
    }
    Verdict::GoesOn { etag }
}

fn wrong_length(found: u64, decided: u64) -> Verdict {
    let text = format!("the server's file has {found} bytes, {decided} were decided");
    if found > decided { Verdict::Longer(text) } else { Verdict::Other(text) }
}

/// `bytes START-END/TOTAL` (RFC 9110, 14.4); the total may be `*`.
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end, total))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(status: u16, range: &str) -> Head<'_> {
        Head { status, length: None, range: Some(range), etag: Some("\"a\"") }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "5-9/10",
            "bytes 5-9",
            "bytes -9/10",
            "bytes 5-9/x",
            "bytes +5-9/10",
            "bytes 99999999999999999999-1/1",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let etag = Some("\"a\"".to_owned());
        assert_eq!(judge(&head(206, "bytes 5-9/10"), 5, 10), Verdict::GoesOn { etag: etag.clone() });
        assert!(matches!(judge(&head(206, "bytes 4-9/10"), 5, 10), Verdict::Again(_)));
        assert!(matches!(judge(&head(206, "nonsense"), 5, 10), Verdict::Again(_)));
        assert!(matches!(judge(&head(206, "bytes 5-9/11"), 5, 10), Verdict::Longer(_)));
        assert!(matches!(judge(&head(206, "bytes 5-8/9"), 5, 10), Verdict::Other(_)));
        assert_eq!(judge(&head(200, ""), 5, 10), Verdict::Anew { etag });
        assert!(matches!(judge(&Head { length: Some(11), ..head(200, "") }, 5, 10), Verdict::Longer(_)));
        assert_eq!(judge(&head(403, ""), 5, 10), Verdict::LinkRefused);
        assert_eq!(judge(&head(404, ""), 5, 10), Verdict::NotFound);
        assert!(matches!(judge(&head(416, ""), 5, 10), Verdict::Other(_)));
        assert!(matches!(judge(&head(302, ""), 5, 10), Verdict::Again(_)));
        assert!(matches!(judge(&head(503, ""), 5, 10), Verdict::Again(_)));
        let weak = Head { etag: Some("W/\"a\""), ..head(206, "bytes 5-9/10") };
        assert_eq!(judge(&weak, 5, 10), Verdict::GoesOn { etag: None });
    }

    proptest! {
        #[test]
        fn a_body_only_goes_on_where_the_file_ends(status in prop_oneof![Just(206u16), any::<u16>()], have in 0u64..20, length in 1u64..20,
            start in 0u64..20, end in 0u64..20, total in prop_oneof![Just(None), (0u64..20).prop_map(Some)]) {
            let total_text = total.map_or("*".to_owned(), |t| t.to_string());
            let range = format!("bytes {start}-{end}/{total_text}");
            if let Verdict::GoesOn { .. } = judge(&head(status, &range), have, length) {
                prop_assert_eq!((status, start), (206, have));
                prop_assert!(end < length && total.is_none_or(|t| t == length));
            }
        }
    }
}
