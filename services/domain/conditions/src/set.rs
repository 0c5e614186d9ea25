use std::collections::BTreeMap;
use std::time::Duration;

use crate::eval::{Context, Judged, judge};
use crate::{Expr, ParseError, SignalName, Signals, Verdict, WallClock};

/// Most terms that a condition may have once every name in it is replaced: what bounds the work of one judgement.
pub const MAX_EXPANDED_TERMS: usize = 256;

/// The vehicle's own conditions by name (`parked`, `battery-ok`), free of cycles.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConditionSet {
    named: BTreeMap<String, Named>,
}

#[derive(Debug, Clone, PartialEq)]
struct Named {
    expr: Expr,
    /// Terms once every name is replaced.
    terms: usize,
}

/// Why a vehicle's conditions cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error(
        "{0:?} is not a condition's name: a letter, then letters, digits, - and _, at most 64 bytes, and none of the words of the language"
    )]
    Name(String),
    #[error("condition {name} cannot be read")]
    Parse { name: String, source: ParseError },
    #[error("condition {name} names {missing}, which is not there")]
    Missing { name: String, missing: String },
    #[error("condition {0} depends on itself")]
    Cycle(String),
    #[error("condition {0} has more than {MAX_EXPANDED_TERMS} terms")]
    TooLarge(String),
}

impl ConditionSet {
    /// Parses the conditions and checks that each one's names are there and lead to an end.
    pub fn new(sources: &BTreeMap<String, String>) -> Result<Self, SetError> {
        let mut open = BTreeMap::new();
        for (name, source) in sources {
            check_name(name)?;
            let expr: Expr = source.parse().map_err(|source| SetError::Parse { name: name.clone(), source })?;
            if let Some(missing) = expr.names().into_iter().find(|n| !sources.contains_key(*n)) {
                return Err(SetError::Missing { name: name.clone(), missing: missing.to_owned() });
            }
            open.insert(name.clone(), expr);
        }
        let mut set = Self::default();
        while !open.is_empty() {
            // Take what depends on settled conditions only; when nothing does, the rest is a cycle.
            let settled = |expr: &Expr| expr.names().into_iter().all(|n| set.named.contains_key(n));
            let ready = open.iter().find(|(_, expr)| settled(expr)).map(|(name, _)| name.clone());
            let Some(name) = ready else {
                return Err(SetError::Cycle(open.into_keys().next().unwrap_or_default()));
            };
            if let Some(expr) = open.remove(&name) {
                let terms = set.terms(&expr);
                if terms > MAX_EXPANDED_TERMS {
                    return Err(SetError::TooLarge(name));
                }
                set.named.insert(name, Named { expr, terms });
            }
        }
        Ok(set)
    }

    /// Judges a condition. Total: every condition that parses has a verdict, in work bounded by
    /// [`MAX_EXPANDED_TERMS`] times [`crate::MAX_TERMS`].
    pub fn evaluate(&self, expr: &Expr, signals: &Signals, now: Duration, wall: WallClock) -> Verdict {
        let mut verdict = self.judge(expr, Context { signals, now, wall }).verdict();
        // The same signal may block twice, by way of two names.
        let mut seen = Vec::new();
        verdict.reasons.retain(|reason| {
            let new = !seen.contains(reason);
            if new {
                seen.push(reason.clone());
            }
            new
        });
        verdict
    }

    /// All signals a condition depends on, those of named conditions included.
    pub fn signals<'a>(&'a self, expr: &'a Expr) -> std::collections::BTreeSet<&'a SignalName> {
        let own = expr.signals().into_iter();
        let named = expr.names().into_iter().filter_map(|n| self.named.get(n)).flat_map(|n| self.signals(&n.expr));
        own.chain(named).collect()
    }

    /// The names and what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Expr)> {
        self.named.iter().map(|(name, named)| (name.as_str(), &named.expr))
    }

    fn judge(&self, expr: &Expr, context: Context<'_>) -> Judged {
        judge(expr, context, &mut |name| match self.named.get(name) {
            Some(named) => self.judge(&named.expr, context),
            None => Judged::unknown_name(name),
        })
    }

    fn terms(&self, expr: &Expr) -> usize {
        let term = |leaf: &Expr| match leaf {
            Expr::Named(name) => self.named.get(name).map_or(1, |named| named.terms),
            _ => 1,
        };
        expr.leaves().into_iter().map(term).fold(0, usize::saturating_add)
    }
}

fn check_name(name: &str) -> Result<(), SetError> {
    let word = matches!(name.parse::<Expr>(), Ok(Expr::Named(read)) if read == name);
    if word && name.len() <= 64 { Ok(()) } else { Err(SetError::Name(name.to_owned())) }
}
