//! An input taken as a list of steps, so that a machine with state is driven through many of them.

use std::time::Duration;

/// One step: its kind, a time that passes before it, and bytes.
pub struct Step<'a> {
    pub kind: u8,
    pub pause: Duration,
    pub bytes: &'a [u8],
}

/// Cuts an input into steps: a byte for the kind, one for the pause (in units of 10 ms, from 128 on in seconds), one for the length.
pub fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let (&[kind, pause, length], rest) = data.split_first_chunk()?;
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        let pause = match pause {
            0..128 => Duration::from_millis(u64::from(pause) * 10),
            _ => Duration::from_secs(u64::from(pause - 128)),
        };
        Some(Step { kind, pause, bytes })
    })
}

/// The same the other way round, for the inputs to begin with.
pub fn script(steps: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (kind, pause, bytes) in steps {
        data.extend([*kind, *pause, bytes.len() as u8]);
        data.extend_from_slice(bytes);
    }
    data
}
