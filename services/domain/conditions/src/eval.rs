use std::time::Duration;

use pitstop_types::UnixSeconds;

use crate::{Comparison, Expr, Literal, Operator, Reading, SignalName, Signals, Value, Window};

/// What the wall clock says; `None` where the time is not known.
pub type WallClock = Option<UnixSeconds>;

/// Three-valued: what cannot be judged is neither true nor false, and `not` leaves it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

/// The judgement of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Only when it is true; unknown blocks.
    pub holds: bool,
    /// What blocks, empty when it holds.
    pub reasons: Vec<Reason>,
}

/// One thing that blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The signal that blocks, if it is one.
    pub signal: Option<SignalName>,
    /// For people: names the signal, its value or what is wrong with it, and what is wanted.
    pub text: String,
}

/// Everything that a judgement depends on.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) signals: &'a Signals,
    pub(crate) now: Duration,
    pub(crate) wall: WallClock,
}

impl Truth {
    fn of(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::True, Self::True) => Self::True,
            _ => Self::Unknown,
        }
    }

    fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }
}

/// A part of a condition once judged, with what keeps it from being true and what keeps it from being false.
pub(crate) struct Judged {
    pub(crate) truth: Truth,
    against_true: Vec<Reason>,
    against_false: Vec<Reason>,
}

impl Judged {
    fn not(self) -> Self {
        Self { truth: self.truth.not(), against_true: self.against_false, against_false: self.against_true }
    }

    fn join(self, other: Self, truth: fn(Truth, Truth) -> Truth) -> Self {
        let chain = |mut a: Vec<Reason>, b: Vec<Reason>| {
            a.extend(b);
            a
        };
        Self {
            truth: truth(self.truth, other.truth),
            against_true: chain(self.against_true, other.against_true),
            against_false: chain(self.against_false, other.against_false),
        }
    }

    /// The same reasons against both: it cannot be judged.
    fn unknown(signal: Option<SignalName>, text: String) -> Self {
        let reason = vec![Reason { signal, text }];
        Self { truth: Truth::Unknown, against_true: reason.clone(), against_false: reason }
    }

    pub(crate) fn unknown_name(name: &str) -> Self {
        Self::unknown(None, format!("{name} is not a condition of this vehicle"))
    }

    pub(crate) fn verdict(self) -> Verdict {
        let holds = self.truth == Truth::True;
        Verdict { holds, reasons: if holds { Vec::new() } else { self.against_true } }
    }
}

/// Judges `expr`; `named` judges a condition by its name.
pub(crate) fn judge(expr: &Expr, context: Context<'_>, named: &mut dyn FnMut(&str) -> Judged) -> Judged {
    match expr {
        Expr::All(parts) => judge_parts(parts, Truth::True, Truth::and, context, named),
        Expr::Any(parts) => judge_parts(parts, Truth::False, Truth::or, context, named),
        Expr::Not(inner) => judge(inner, context, named).not(),
        Expr::Compare(comparison) => judge_comparison(comparison, context),
        Expr::Window(window) => judge_window(window, context.wall),
        Expr::Named(name) => named(name),
    }
}

fn judge_parts(
    parts: &[Expr],
    start: Truth,
    join: fn(Truth, Truth) -> Truth,
    context: Context<'_>,
    named: &mut dyn FnMut(&str) -> Judged,
) -> Judged {
    let mut whole = Judged { truth: start, against_true: Vec::new(), against_false: Vec::new() };
    for part in parts {
        let mut judged = judge(part, context, named);
        // What is already as wanted does not block, whatever its own parts say.
        match judged.truth {
            Truth::True => judged.against_true.clear(),
            Truth::False => judged.against_false.clear(),
            Truth::Unknown => {}
        }
        whole = whole.join(judged, join);
    }
    whole
}

fn judge_comparison(comparison: &Comparison, context: Context<'_>) -> Judged {
    let name = &comparison.signal;
    let value = match context.signals.read(name, context.now) {
        Reading::Fresh { value, .. } => value,
        Reading::Unusable(fault) => return Judged::unknown(Some(name.clone()), format!("{name} {fault}")),
    };
    let Some(truth) = compare(value, comparison.operator, comparison.literal) else {
        let text = format!("{name} is {value}, which cannot be compared with {}", comparison.literal);
        return Judged::unknown(Some(name.clone()), text);
    };
    let unit = context.signals.map().get(name).map_or("", |spec| spec.unit.as_str());
    let space = if unit.is_empty() { "" } else { " " };
    let wanted = format!("{} {}", comparison.operator.as_str(), comparison.literal);
    decided(truth, Some(name), format!("{name} is {value}{space}{unit}, wanted: {wanted}"), || {
        format!("{name} is {value}{space}{unit}, wanted: not {wanted}")
    })
}

fn judge_window(window: &Window, wall: WallClock) -> Judged {
    match wall.and_then(|now| window.contains(now)) {
        Some((inside, local)) => decided(inside, None, format!("it is {local}, outside {window}"), || {
            format!("it is {local}, inside {window}")
        }),
        None => Judged::unknown(None, format!("the time is not known, so {window} cannot be judged")),
    }
}

fn decided(truth: bool, signal: Option<&SignalName>, if_false: String, if_true: impl FnOnce() -> String) -> Judged {
    let text = if truth { if_true() } else { if_false };
    let reason = vec![Reason { signal: signal.cloned(), text }];
    let (against_true, against_false) = if truth { (Vec::new(), reason) } else { (reason, Vec::new()) };
    Judged { truth: Truth::of(truth), against_true, against_false }
}

/// `None`: a number and a truth value have no order and no equality.
fn compare(value: Value, operator: Operator, literal: Literal) -> Option<bool> {
    // Tolerance for values computed by a factor such as 0.001: far below any sensor's step.
    const SLACK: f64 = 1e-9;
    match (value, literal) {
        (Value::Bool(left), Literal::Bool(right)) => match operator {
            Operator::Equal => Some(left == right),
            Operator::NotEqual => Some(left != right),
            _ => None,
        },
        (Value::Number(left), Literal::Number(right)) => Some(match operator {
            Operator::Equal => (left - right).abs() <= SLACK,
            Operator::NotEqual => (left - right).abs() > SLACK,
            Operator::Less => left < right - SLACK,
            Operator::LessOrEqual => left <= right + SLACK,
            Operator::Greater => left > right + SLACK,
            Operator::GreaterOrEqual => left >= right - SLACK,
        }),
        _ => None,
    }
}
