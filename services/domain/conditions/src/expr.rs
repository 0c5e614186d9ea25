use std::fmt;

use crate::{SignalName, Window};

/// Longest condition, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 1000;
/// Deepest nesting of brackets and `not`.
pub const MAX_DEPTH: usize = 16;
/// Most comparisons, windows and names in one condition.
pub const MAX_TERMS: usize = 64;

/// A condition.
///
/// ```text
/// condition  = all { "or" all }
/// all        = one { "and" one }
/// one        = "not" one | "(" condition ")" | comparison | window | name
/// comparison = signal [ ("==" | "!=" | "<" | "<=" | ">" | ">=") (number | "true" | "false") ]
/// window     = "window" "(" times "," zone [ "," days ] ")"
/// ```
/// A signal alone must be true. A name is a condition of the vehicle's configuration (`parked`); it has no dot.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    Any(Vec<Expr>),
    All(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Comparison),
    Window(Window),
    Named(String),
}

/// A signal compared with a constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub signal: SignalName,
    pub operator: Operator,
    pub literal: Literal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Literal {
    Number(f64),
    Bool(bool),
}

impl Expr {
    /// The signals it reads itself, not those of the conditions it names.
    pub fn signals(&self) -> Vec<&SignalName> {
        self.leaves()
            .into_iter()
            .filter_map(|e| if let Self::Compare(c) = e { Some(&c.signal) } else { None })
            .collect()
    }

    /// The conditions it names.
    pub fn names(&self) -> Vec<&str> {
        self.leaves().into_iter().filter_map(|e| if let Self::Named(n) = e { Some(n.as_str()) } else { None }).collect()
    }

    /// Everything that is not and, or, not. Depth is bounded by the parser, so recursion is too.
    pub(crate) fn leaves(&self) -> Vec<&Self> {
        match self {
            Self::Any(parts) | Self::All(parts) => parts.iter().flat_map(Self::leaves).collect(),
            Self::Not(inner) => inner.leaves(),
            leaf => vec![leaf],
        }
    }
}

impl Operator {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Bool(b) => write!(f, "{b}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.signal, self.operator.as_str(), self.literal)
    }
}

/// Writes it so that parsing gives the same condition again.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    Self::Any(_) | Self::All(_) => write!(f, "({part})")?,
                    _ => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Any(parts) => joined(f, parts, "or"),
            Self::All(parts) => joined(f, parts, "and"),
            Self::Not(inner) if matches!(**inner, Self::Any(_) | Self::All(_)) => write!(f, "not ({inner})"),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::Compare(comparison) => comparison.fmt(f),
            Self::Window(window) => window.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}
