use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pitstop_store::{ChainedLog, Document, Storage, StoreError};
use pitstop_types::{Digest, PromptFacts, PromptFactsError, UnixSeconds, UpdateEnd, UpdateId, UserChoice};

use crate::record::{Answer, Consent, Notice, Origin, Prompt, PromptState, text_digest};

const FORMAT: u32 = 1;
/// Prompts and notices kept: an update needs one of each, and updates come some times a year.
pub const MAX_KEPT: usize = 64;
/// Longest text of a notice, in bytes.
pub const MAX_NOTICE_BYTES: usize = 4000;
/// Ends the name of a copy that [`Document::keep_damaged`] made. No update's id holds a dot.
const DAMAGED: &str = ".damaged";
/// A time given in whole minutes may already lie this far back when the answer arrives, in seconds.
const TOLERANCE_SECS: i64 = 60;

/// All prompts, answers and notices, on disk and in memory. Every change is on disk before the call that makes it returns.
pub struct Desk {
    storage: Arc<dyn Storage>,
    consents: ChainedLog,
    prompts: BTreeMap<UpdateId, Prompt>,
    notices: BTreeMap<UpdateId, Notice>,
    next_number: u64,
    schedule_ahead: Duration,
}

/// Why the desk does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("no prompt of update {0} is known")]
    UnknownUpdate(UpdateId),
    #[error("the prompt of update {0} is not open any more")]
    NotOpen(UpdateId),
    #[error("update {update} was answered {choice:?} already")]
    AlreadyAnswered { update: UpdateId, choice: &'static str },
    #[error("the prompt of update {0} shows another text now")]
    TextChanged(UpdateId),
    #[error("the driver declined update {0}; an answer \"no\" is not asked about again")]
    Declined(UpdateId),
    #[error(transparent)]
    Facts(#[from] PromptFactsError),
    #[error("the notice's text is empty or longer than {MAX_NOTICE_BYTES} bytes")]
    NoticeText,
    #[error("the time {at} (Unix seconds) is not between now and {ahead_days} days ahead")]
    Time { at: UnixSeconds, ahead_days: u64 },
    #[error("the time is not known, so the update cannot be put at a time")]
    TimeUnknown,
    #[error("{MAX_KEPT} prompts or notices wait already")]
    Full,
    #[error("storing prompts and notices")]
    Store(#[from] StoreError),
}

/// What a call changed, for the objects on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Show this prompt.
    PromptAdded(Prompt),
    /// It is open no more, or not with this text: take it off the screens.
    PromptRemoved(Prompt),
    /// It is forgotten: its object goes too.
    PromptForgotten(Prompt),
    NoticeAdded(Notice),
    NoticeRemoved(Notice),
}

impl Desk {
    /// Reads what is stored and completes what a power cut left half done. An update may be put `schedule_ahead` at most.
    ///
    /// A prompt or notice that is damaged is put aside as `NAME.damaged`, and all others are served: who asked finds the prompt
    /// unknown and asks again.
    ///
    /// Errors: the disk cannot be read, or the log of answers not completed.
    pub fn load(storage: Arc<dyn Storage>, schedule_ahead: Duration) -> Result<Self, StoreError> {
        let mut desk = Self {
            consents: ChainedLog::new(storage.clone(), "consents"),
            prompts: BTreeMap::new(),
            notices: BTreeMap::new(),
            next_number: 0,
            schedule_ahead,
            storage,
        };
        for prompt in desk.load_all::<Prompt>("prompts/")? {
            desk.next_number = desk.next_number.max(prompt.number + 1);
            desk.prompts.insert(prompt.update.clone(), prompt);
        }
        for notice in desk.load_all::<Notice>("notices/")? {
            desk.next_number = desk.next_number.max(notice.number + 1);
            desk.notices.insert(notice.update.clone(), notice);
        }
        desk.complete_consents()?;
        Ok(desk)
    }

    /// What is stored below `folder`. One that is damaged is put aside: without it one update lacks an answer, which its services ask
    /// for again; without this service every update does.
    fn load_all<T: serde::Serialize + serde::de::DeserializeOwned>(&self, folder: &str) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        for name in self.storage.list(folder)?.into_iter().filter(|name| !name.ends_with(DAMAGED)) {
            let document = self.document::<T>(name.clone());
            match document.load() {
                Ok(stored) => all.extend(stored),
                // The checksum does not cover the format number, so damage may look like another format.
                Err(error @ (StoreError::Damaged { .. } | StoreError::Format { .. })) => {
                    log::warn!("{error}; kept as {name}{DAMAGED}");
                    // The copy is for who looks for the reason: a disk that is full must not keep the others from being served.
                    if let Err(cause) = document.keep_damaged().and_then(|()| document.remove()) {
                        log::warn!("putting {name} aside: {cause}");
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The answer is stored in the prompt first, so only its line in the log can be missing.
    fn complete_consents(&self) -> Result<(), StoreError> {
        let logged: Vec<Consent> = self.consents.entries()?.into_iter().map(|entry| entry.data).collect();
        for prompt in self.prompts.values() {
            let Some(answer) = prompt.answer.clone() else { continue };
            let consent = Consent { update: prompt.update.clone(), answer };
            if !logged.contains(&consent) {
                self.consents.append(&consent)?;
            }
        }
        Ok(())
    }

    pub fn prompt(&self, update: &UpdateId) -> Result<&Prompt, DeskError> {
        self.prompts.get(update).ok_or_else(|| DeskError::UnknownUpdate(update.clone()))
    }

    /// Every prompt, whatever its state, oldest first.
    pub fn prompts(&self) -> Vec<&Prompt> {
        let mut all: Vec<_> = self.prompts.values().collect();
        all.sort_by_key(|prompt| prompt.number);
        all
    }

    /// Notices nobody acknowledged, oldest first.
    pub fn notices(&self) -> Vec<&Notice> {
        let mut all: Vec<_> = self.notices.values().filter(|notice| !notice.acknowledged).collect();
        all.sort_by_key(|notice| notice.number);
        all
    }

    /// Opens a prompt. The same update and facts find the prompt that is there (opened again if it was withdrawn without an
    /// answer); other facts replace it, because an answer counts for one text only.
    pub fn ask(
        &mut self,
        update: &UpdateId,
        facts: PromptFacts,
        now: Option<UnixSeconds>,
    ) -> Result<Vec<Change>, DeskError> {
        facts.check()?;
        let digest = text_digest(&facts);
        let answered_before = self.prompts.get(update).and_then(Prompt::last_answered_at);
        let mut changes = Vec::new();
        match self.prompts.get(update) {
            Some(old) if old.digest == digest && old.state == PromptState::Withdrawn && old.answer.is_none() => {
                return self.ask_again(update);
            }
            Some(old) if old.digest == digest => return Ok(changes),
            Some(old) => changes.push(Change::PromptForgotten(old.clone())),
            None => changes.extend(self.make_room()?),
        }
        let number = self.next_number;
        let prompt = Prompt {
            update: update.clone(),
            facts,
            digest,
            number,
            asked_at: now,
            state: PromptState::Open,
            answer: None,
            answered_before,
        };
        self.keep_prompt(prompt.clone())?;
        self.next_number += 1;
        changes.push(Change::PromptAdded(prompt));
        Ok(changes)
    }

    /// Takes the driver's answer. The first one wins; the same answer given again for the same text is `AlreadyAnswered` too.
    pub fn answer(
        &mut self,
        update: &UpdateId,
        choice: UserChoice,
        origin: Origin,
        shown: Digest,
        now: Option<UnixSeconds>,
    ) -> Result<Vec<Change>, DeskError> {
        let prompt = self.prompt(update)?;
        if prompt.digest != shown {
            return Err(DeskError::TextChanged(update.clone()));
        }
        if let Some(answer) = &prompt.answer {
            let choice = crate::record::choice_words(answer.choice).0;
            return Err(DeskError::AlreadyAnswered { update: update.clone(), choice });
        }
        if prompt.state != PromptState::Open {
            return Err(DeskError::NotOpen(update.clone()));
        }
        if let UserChoice::At { unix_secs } = choice {
            self.check_time(unix_secs, now.ok_or(DeskError::TimeUnknown)?)?;
        }
        // Whoever knows the answer before takes one that is not later for the same.
        let later = prompt.last_answered_at().map_or(0, |last| last.saturating_add(1));
        let answer = Answer { choice, origin, answered_at: now.unwrap_or(0).max(later), text_digest: shown };
        let answered = Prompt { state: PromptState::Answered, answer: Some(answer.clone()), ..prompt.clone() };
        self.keep_prompt(answered.clone())?;
        self.consents.append(&Consent { update: update.clone(), answer })?;
        Ok(vec![Change::PromptRemoved(answered)])
    }

    /// Opens an answered prompt again, its answer withdrawn from use (the log keeps it).
    pub fn ask_again(&mut self, update: &UpdateId) -> Result<Vec<Change>, DeskError> {
        let prompt = self.prompt(update)?;
        if prompt.state == PromptState::Open {
            return Ok(Vec::new());
        }
        if prompt.answer.as_ref().is_some_and(|answer| answer.choice == UserChoice::No) {
            return Err(DeskError::Declined(update.clone()));
        }
        let answered_before = prompt.last_answered_at();
        let open = Prompt { state: PromptState::Open, answer: None, answered_before, ..prompt.clone() };
        self.keep_prompt(open.clone())?;
        Ok(vec![Change::PromptAdded(open)])
    }

    /// Takes a prompt off the screens. One that is unknown or withdrawn is no error.
    pub fn withdraw(&mut self, update: &UpdateId) -> Result<Vec<Change>, DeskError> {
        let Some(prompt) = self.prompts.get(update).filter(|prompt| prompt.state != PromptState::Withdrawn) else {
            return Ok(Vec::new());
        };
        let withdrawn = Prompt { state: PromptState::Withdrawn, ..prompt.clone() };
        self.keep_prompt(withdrawn.clone())?;
        Ok(vec![Change::PromptRemoved(withdrawn)])
    }

    /// Shows how an update ended. Said again it changes nothing, also after the driver acknowledged it.
    pub fn notify(
        &mut self,
        update: &UpdateId,
        end: UpdateEnd,
        text: &str,
        now: Option<UnixSeconds>,
    ) -> Result<Vec<Change>, DeskError> {
        if text.trim().is_empty() || text.len() > MAX_NOTICE_BYTES {
            return Err(DeskError::NoticeText);
        }
        let mut changes = Vec::new();
        match self.notices.get(update) {
            Some(old) if old.end == end && old.text == text => return Ok(changes),
            Some(old) if !old.acknowledged => changes.push(Change::NoticeRemoved(old.clone())),
            Some(_) => {}
            None => self.make_notice_room()?,
        }
        let number = self.next_number;
        let notice =
            Notice { update: update.clone(), end, text: text.to_owned(), number, at: now, acknowledged: false };
        self.keep_notice(notice.clone())?;
        self.next_number += 1;
        changes.push(Change::NoticeAdded(notice));
        Ok(changes)
    }

    /// The driver has seen a notice. Repeatable.
    pub fn acknowledge(&mut self, update: &UpdateId) -> Result<Vec<Change>, DeskError> {
        let Some(notice) = self.notices.get(update).filter(|notice| !notice.acknowledged) else {
            return Ok(Vec::new());
        };
        let seen = Notice { acknowledged: true, ..notice.clone() };
        self.keep_notice(seen.clone())?;
        Ok(vec![Change::NoticeRemoved(seen)])
    }

    fn check_time(&self, at: UnixSeconds, now: UnixSeconds) -> Result<(), DeskError> {
        let ahead = self.schedule_ahead.as_secs();
        let latest = now.saturating_add_unsigned(ahead);
        if (now - TOLERANCE_SECS..=latest).contains(&at) {
            Ok(())
        } else {
            Err(DeskError::Time { at, ahead_days: ahead / 86_400 })
        }
    }

    fn keep_prompt(&mut self, prompt: Prompt) -> Result<(), StoreError> {
        self.document(format!("prompts/{}", prompt.update)).store(&prompt)?;
        self.prompts.insert(prompt.update.clone(), prompt);
        Ok(())
    }

    fn keep_notice(&mut self, notice: Notice) -> Result<(), StoreError> {
        self.document(format!("notices/{}", notice.update)).store(&notice)?;
        self.notices.insert(notice.update.clone(), notice);
        Ok(())
    }

    /// Forgets the oldest prompt that is not open, when there are too many. Its answer stays in the log.
    fn make_room(&mut self) -> Result<Vec<Change>, DeskError> {
        if self.prompts.len() < MAX_KEPT {
            return Ok(Vec::new());
        }
        let done = self.prompts.values().filter(|prompt| prompt.state != PromptState::Open);
        let oldest = done.min_by_key(|prompt| prompt.number).cloned().ok_or(DeskError::Full)?;
        self.document::<Prompt>(format!("prompts/{}", oldest.update)).remove()?;
        self.prompts.remove(&oldest.update);
        Ok(vec![Change::PromptForgotten(oldest)])
    }

    fn make_notice_room(&mut self) -> Result<(), DeskError> {
        if self.notices.len() < MAX_KEPT {
            return Ok(());
        }
        let seen = self.notices.values().filter(|notice| notice.acknowledged);
        let oldest = seen.min_by_key(|notice| notice.number).map(|n| n.update.clone()).ok_or(DeskError::Full)?;
        self.document::<Notice>(format!("notices/{oldest}")).remove()?;
        self.notices.remove(&oldest);
        Ok(())
    }

    fn document<T: serde::Serialize + serde::de::DeserializeOwned>(&self, name: String) -> Document<T> {
        Document::new(self.storage.clone(), name, FORMAT)
    }
}

#[cfg(test)]
mod tests;
