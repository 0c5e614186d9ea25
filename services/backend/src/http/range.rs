//! `Range` of RFC 9110, section 14: one range of bytes. Several ranges are answered with the whole file, as the RFC allows.

/// What part of a file of known length is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// First byte and number of bytes, at least one.
    Range {
        start: u64,
        length: u64,
    },
    /// Nothing of the file lies in it: 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `length` bytes. A header that cannot be read is ignored, as the RFC demands.
pub(super) fn part(header: Option<&str>, length: u64) -> Part {
    let Some(range) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    match (digits(first), digits(last)) {
        (Some(None), Some(Some(suffix))) => {
            let suffix = suffix.min(length);
            if suffix == 0 { Part::Unsatisfiable } else { Part::Range { start: length - suffix, length: suffix } }
        }
        (Some(Some(first)), Some(last)) => {
            let last = last.unwrap_or(u64::MAX);
            if first > last {
                return Part::Whole;
            }
            if first >= length {
                return Part::Unsatisfiable;
            }
            let last = last.min(length - 1);
            Part::Range { start: first, length: last - first + 1 }
        }
        _ => Part::Whole,
    }
}

/// A number, nothing (`Some(None)`), or rubbish (`None`).
fn digits(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than a file can have bytes: as large as can be.
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rfcs_examples_are_read_as_it_says() {
        // RFC 9110, section 14.1.2, for a representation of 10 000 bytes.
        assert_eq!(part(Some("bytes=0-499"), 10_000), Part::Range { start: 0, length: 500 });
        assert_eq!(part(Some("bytes=500-999"), 10_000), Part::Range { start: 500, length: 500 });
        assert_eq!(part(Some("bytes=-500"), 10_000), Part::Range { start: 9500, length: 500 });
        assert_eq!(part(Some("bytes=9500-"), 10_000), Part::Range { start: 9500, length: 500 });
        assert_eq!(part(Some("bytes=9500-99999999999999999999999"), 10_000), Part::Range { start: 9500, length: 500 });
        assert_eq!(part(Some("bytes=10000-"), 10_000), Part::Unsatisfiable);
        assert_eq!(part(Some("bytes=-0"), 10_000), Part::Unsatisfiable);
        for ignored in
            [None, Some("bytes=5-2"), Some("bytes=0-1,3-4"), Some("lines=1-2"), Some("bytes=a-b"), Some("bytes=-")]
        {
            assert_eq!(part(ignored, 10_000), Part::Whole, "{ignored:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_the_part_lies_in_the_file(text in "(bytes=)?[0-9 ,a-z-]{0,24}", length in 0_u64..5000) {
            if let Part::Range { start, length: taken } = part(Some(&text), length) {
                prop_assert!(taken > 0 && start + taken <= length);
            }
        }
    }
}
