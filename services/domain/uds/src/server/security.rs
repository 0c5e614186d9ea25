//! SecurityAccess (27), after ISO 14229-1:2020 figure I.1.

use super::{Act, EcuContent, Server};
use crate::{Monotonic, Nrc, Response};

#[derive(Debug, Default)]
pub(super) struct Security {
    /// The level of the seed request that was answered by a right key.
    unlocked: Option<u8>,
    seed: Option<(u8, Vec<u8>)>,
    wrong_keys: u8,
    pub(super) delay_ends: Option<Monotonic>,
}

impl Security {
    pub(super) fn is_unlocked(&self) -> bool {
        self.unlocked.is_some()
    }

    pub(super) fn lock(&mut self) {
        self.unlocked = None;
        self.seed = None;
    }
}

impl<C: EcuContent> Server<C> {
    /// `level` without bit 7; `data` is what follows it.
    pub(super) fn security_access(&mut self, now: Monotonic, level: u8, data: &[u8]) -> Result<Act, Nrc> {
        if level == 0 || level == 0x7F {
            return Err(Nrc::SubFunctionNotSupported);
        }
        if level % 2 == 1 { self.give_seed(now, level, data) } else { self.take_key(now, level, data) }
    }

    fn give_seed(&mut self, now: Monotonic, level: u8, data: &[u8]) -> Result<Act, Nrc> {
        let mut seed = self.content.seed(level, data)?;
        if self.security.delay_ends.is_some_and(|ends| now < ends) {
            return Err(Nrc::RequiredTimeDelayNotExpired);
        }
        if self.security.unlocked == Some(level) {
            // A seed of zeros says that this level is open already.
            seed.fill(0);
        } else {
            self.security.seed = Some((level, seed.clone()));
        }
        Ok(Act::Answer(Response::SecurityAccess { level, seed }))
    }

    fn take_key(&mut self, now: Monotonic, level: u8, key: &[u8]) -> Result<Act, Nrc> {
        // Any key uses the seed up.
        let Some((seed_level, seed)) = self.security.seed.take() else { return Err(Nrc::RequestSequenceError) };
        if seed_level + 1 != level {
            return Err(Nrc::RequestSequenceError);
        }
        if key.is_empty() {
            return Err(Nrc::IncorrectMessageLengthOrInvalidFormat);
        }
        if self.content.key_fits(level, &seed, key) {
            self.security.unlocked = Some(seed_level);
            self.security.wrong_keys = 0;
            return Ok(Act::Answer(Response::SecurityAccess { level, seed: Vec::new() }));
        }
        self.security.wrong_keys += 1;
        if self.security.wrong_keys < self.settings.key_attempts {
            return Err(Nrc::InvalidKey);
        }
        self.security.wrong_keys = 0;
        self.security.delay_ends = Some(now + self.settings.key_delay);
        Err(Nrc::ExceededNumberOfAttempts)
    }
}
