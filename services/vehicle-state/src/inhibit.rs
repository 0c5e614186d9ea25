use std::collections::BTreeSet;
use std::time::Duration;

use pitstop_types::UpdateId;
use serde::{Deserialize, Serialize};

/// Period of the request frame, as the DBC file gives it.
const CYCLE: Duration = Duration::from_millis(100);
/// A release that the gateway does not show is sent at this period after [`EAGER_FRAMES`]: the gateway may be away, and nobody waits.
const SLOW_CYCLE: Duration = Duration::from_secs(1);
/// Release frames sent at the full rate: five seconds, longer than a gateway takes to start.
const EAGER_FRAMES: u32 = 50;
/// Owners at once. One update runs at a time; a few more allow for a workshop's request beside it.
const MAX_OWNERS: usize = 8;
/// The counter of the request frame has four bits.
const COUNTER_VALUES: u8 = 16;

/// What must outlive a power cut: who wants driving inhibited, and whether a release is still to be shown by the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub owners: BTreeSet<UpdateId>,
    /// Nobody wants it any more, but the gateway has not shown yet that it knows.
    pub releasing: bool,
}

/// The drive inhibit: latched in [`Record`], asked for in cyclic frames, real when the gateway shows it.
///
/// A new record is stored first and then [`Inhibit::adopt`]ed. Nothing here sends or stores.
#[derive(Debug, Clone)]
pub struct Inhibit {
    record: Record,
    /// When the next frame is due.
    next: Option<Duration>,
    /// When the first frame of the present wish was sent in this life: only what the gateway shows later is an answer to it.
    asked_at: Option<Duration>,
    frames: u32,
    counter: u8,
}

/// A request frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Inhibit driving, or allow it.
    pub inhibit: bool,
    /// 0 to 15.
    pub counter: u8,
}

/// The inhibit as the other services see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody wants it.
    Released,
    /// Wanted, not confirmed.
    Requested,
    /// Wanted, and the gateway shows it now.
    Acknowledged,
}

/// What the gateway shows, fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub inhibited: bool,
    /// When it was received.
    pub at: Duration,
}

/// More owners than one vehicle can have updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_OWNERS} owners hold the drive inhibit already")]
pub struct TooManyOwners;

impl Record {
    /// For when it is lost what the gateway was told last. It keeps that for as long as nobody tells it otherwise, so it is told a
    /// release: nobody is known to want the inhibit, and who does asks for it again before the next unsafe step.
    pub fn lost() -> Self {
        Self { owners: BTreeSet::new(), releasing: true }
    }
}

impl Inhibit {
    /// Goes on from what is stored. An unreleased request is sent again at once.
    pub fn new(record: Record, now: Duration) -> Self {
        let mut inhibit = Self { record: Record::default(), next: None, asked_at: None, frames: 0, counter: 0 };
        inhibit.adopt(record, now);
        inhibit
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record with `owner`'s request; `None` if it is there already.
    pub fn requested_by(&self, owner: &UpdateId) -> Result<Option<Record>, TooManyOwners> {
        if self.record.owners.contains(owner) {
            return Ok(None);
        }
        if self.record.owners.len() >= MAX_OWNERS {
            return Err(TooManyOwners);
        }
        let mut record = Record { releasing: false, ..self.record.clone() };
        record.owners.insert(owner.clone());
        Ok(Some(record))
    }

    /// The record without `owner`'s request; `None` if there is none.
    pub fn released_by(&self, owner: &UpdateId) -> Option<Record> {
        let mut record = self.record.clone();
        if !record.owners.remove(owner) {
            return None;
        }
        record.releasing = record.owners.is_empty();
        Some(record)
    }

    /// Takes a record that is stored. Frames for a new wish begin now.
    pub fn adopt(&mut self, record: Record, now: Duration) {
        let wish = |r: &Record| (!r.owners.is_empty(), r.releasing);
        if wish(&record) != wish(&self.record) {
            (self.asked_at, self.frames) = (None, 0);
            self.next = (wish(&record) != (false, false)).then_some(now);
        }
        self.record = record;
    }

    /// The frame that is due.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Order> {
        self.next.filter(|due| *due <= now)?;
        let inhibit = !self.record.owners.is_empty();
        self.frames = self.frames.saturating_add(1);
        let slow = !inhibit && self.frames > EAGER_FRAMES;
        self.next = Some(now + if slow { SLOW_CYCLE } else { CYCLE });
        self.counter = (self.counter + 1) % COUNTER_VALUES;
        Some(Order { inhibit, counter: self.counter })
    }

    /// A frame went out at `now`.
    pub fn sent(&mut self, now: Duration) {
        self.asked_at.get_or_insert(now);
    }

    /// A frame did not go out, which was known at `now` only. The next one waits a whole cycle from then: a try can take as long as a
    /// cycle, and calls and frames are served between two of them.
    pub fn failed(&mut self, now: Duration) {
        self.next = self.next.map(|next| next.max(now + CYCLE));
    }

    pub fn poll_timeout(&self) -> Option<Duration> {
        self.next
    }

    /// The record that ends a release, once the gateway shows what it was told.
    pub fn settled(&self, shown: Option<Shown>) -> Option<Record> {
        let done = self.record.releasing && self.answers(shown) == Some(false);
        done.then(Record::default)
    }

    /// How it stands, given what the gateway shows now (`None`: nothing fresh).
    pub fn state(&self, shown: Option<Shown>) -> State {
        match (self.record.owners.is_empty(), self.answers(shown)) {
            (true, _) => State::Released,
            (false, Some(true)) => State::Acknowledged,
            (false, _) => State::Requested,
        }
    }

    /// What the gateway shows, if it was received after the present wish was sent.
    fn answers(&self, shown: Option<Shown>) -> Option<bool> {
        let (shown, asked_at) = (shown?, self.asked_at?);
        (shown.at > asked_at).then_some(shown.inhibited)
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Requested => "requested",
            Self::Acknowledged => "acknowledged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn owner(text: &str) -> UpdateId {
        UpdateId::new(text).unwrap()
    }

    fn shown(inhibited: bool, at: u64) -> Option<Shown> {
        Some(Shown { inhibited, at: ms(at) })
    }

    fn requested(now: u64) -> Inhibit {
        let mut inhibit = Inhibit::new(Record::default(), ms(0));
        let record = inhibit.requested_by(&owner("u1")).unwrap().unwrap();
        inhibit.adopt(record, ms(now));
        inhibit
    }

    /// Orders sent from `from` to `to`, polled whenever one is due.
    fn run(inhibit: &mut Inhibit, to: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some(due) = inhibit.poll_timeout().filter(|due| *due <= ms(to)) {
            orders.extend(inhibit.poll_transmit(due));
            inhibit.sent(due);
        }
        orders
    }

    #[test]
    fn idle_it_sends_nothing_and_needs_no_waking() {
        let mut inhibit = Inhibit::new(Record::default(), ms(0));
        assert_eq!(inhibit.poll_timeout(), None);
        assert_eq!(inhibit.poll_transmit(ms(1000)), None);
        assert_eq!(inhibit.state(shown(true, 5)), State::Released);
    }

    #[test]
    fn a_request_is_sent_at_once_and_every_cycle_with_a_counter_that_moves() {
        let mut inhibit = requested(7);
        let orders = run(&mut inhibit, 1607);
        assert_eq!(orders.len(), 17);
        assert!(orders.iter().all(|order| order.inhibit));
        assert!(orders.windows(2).all(|pair| pair[0].counter != pair[1].counter && pair[1].counter < 16));
    }

    #[test]
    fn only_what_the_gateway_shows_after_the_request_acknowledges_it() {
        let mut inhibit = requested(100);
        assert_eq!(inhibit.state(shown(true, 150)), State::Requested, "nothing was sent yet");
        run(&mut inhibit, 100);
        assert_eq!(inhibit.state(shown(true, 99)), State::Requested, "shown before the request");
        assert_eq!(inhibit.state(shown(false, 150)), State::Requested);
        assert_eq!(inhibit.state(shown(true, 150)), State::Acknowledged);
        assert_eq!(inhibit.state(None), State::Requested, "what is not fresh does not count");
    }

    #[test]
    fn it_stays_until_the_last_owner_releases_it() {
        let mut inhibit = requested(0);
        let record = inhibit.requested_by(&owner("u2")).unwrap().unwrap();
        inhibit.adopt(record, ms(10));
        assert_eq!(inhibit.requested_by(&owner("u2")), Ok(None));
        assert_eq!(inhibit.released_by(&owner("u3")), None);
        let record = inhibit.released_by(&owner("u1")).unwrap();
        assert!(!record.releasing);
        inhibit.adopt(record, ms(20));
        assert_eq!(inhibit.state(None), State::Requested);
        let record = inhibit.released_by(&owner("u2")).unwrap();
        assert_eq!(record, Record { owners: BTreeSet::new(), releasing: true });
    }

    #[test]
    fn a_release_is_sent_until_the_gateway_shows_it_slower_after_a_while() {
        let mut inhibit = requested(0);
        run(&mut inhibit, 0);
        inhibit.adopt(inhibit.released_by(&owner("u1")).unwrap(), ms(50));
        assert_eq!(inhibit.settled(shown(false, 60)), None, "no release was sent yet");
        let orders = run(&mut inhibit, 15_000);
        assert!(orders.iter().all(|order| !order.inhibit));
        assert_eq!(orders.len(), 60);
        assert_eq!(inhibit.settled(shown(true, 15_000)), None);
        assert_eq!(inhibit.settled(None), None);
        let record = inhibit.settled(shown(false, 15_000)).unwrap();
        inhibit.adopt(record, ms(15_000));
        assert_eq!(inhibit.poll_timeout(), None);
    }

    #[test]
    fn a_restart_asks_again_and_waits_for_a_new_acknowledgement() {
        let record = requested(0).record().clone();
        let mut again = Inhibit::new(record, ms(500));
        assert_eq!(again.state(shown(true, 499)), State::Requested);
        assert_eq!(run(&mut again, 500).len(), 1);
        assert_eq!(again.state(shown(true, 501)), State::Acknowledged);
        let releasing = Record { owners: BTreeSet::new(), releasing: true };
        assert!(!run(&mut Inhibit::new(releasing, ms(0)), 0)[0].inhibit);
    }

    #[test]
    fn a_request_during_a_release_inhibits_again() {
        let mut inhibit = requested(0);
        inhibit.adopt(inhibit.released_by(&owner("u1")).unwrap(), ms(10));
        run(&mut inhibit, 20);
        inhibit.adopt(inhibit.requested_by(&owner("u2")).unwrap().unwrap(), ms(30));
        assert!(run(&mut inhibit, 30)[0].inhibit);
        assert_eq!(inhibit.state(shown(true, 25)), State::Requested);
    }

    #[test]
    fn after_a_failed_try_a_cycle_is_left_for_everything_else() {
        let mut inhibit = requested(0);
        assert!(inhibit.poll_transmit(ms(0)).is_some());
        inhibit.failed(ms(100));
        assert_eq!(inhibit.poll_timeout(), Some(ms(200)));
        let mut idle = Inhibit::new(Record::default(), ms(0));
        idle.failed(ms(100));
        assert_eq!(idle.poll_timeout(), None);
    }

    #[test]
    fn a_lost_record_is_a_release_and_a_request_ends_it() {
        let mut inhibit = Inhibit::new(Record::lost(), ms(0));
        assert_eq!(inhibit.state(shown(true, 5)), State::Released);
        assert!(!run(&mut inhibit, 0)[0].inhibit);
        assert_eq!(inhibit.settled(shown(true, 10)), None, "held by nobody, and not let go yet");
        let record = inhibit.requested_by(&owner("u1")).unwrap().unwrap();
        assert!(!record.releasing);
        inhibit.adopt(record, ms(20));
        assert!(run(&mut inhibit, 20)[0].inhibit);
    }

    #[test]
    fn owners_are_bounded() {
        let mut inhibit = Inhibit::new(Record::default(), ms(0));
        for n in 0..MAX_OWNERS {
            inhibit.adopt(inhibit.requested_by(&owner(&format!("u{n}"))).unwrap().unwrap(), ms(0));
        }
        assert_eq!(inhibit.requested_by(&owner("more")), Err(TooManyOwners));
    }
}
