use crate::lexer::{Token, TokenKind, tokens};
use crate::{
    Comparison, Expr, Literal, MAX_DEPTH, MAX_EXPRESSION_BYTES, MAX_TERMS, Operator, SignalName, Window, WindowError,
};

/// Why a text is not a condition. `at` is the byte where it went wrong, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("a condition has at most {MAX_EXPRESSION_BYTES} bytes, this has {0}")]
    TooLong(usize),
    #[error("a condition has at most {MAX_TERMS} terms")]
    TooManyTerms,
    #[error("at byte {at}: brackets and \"not\" nest deeper than {MAX_DEPTH}")]
    TooDeep { at: usize },
    #[error("at byte {at}: this character starts no word of a condition, or a text or number does not end")]
    Character { at: usize },
    #[error("at byte {at}: expected {expected}")]
    Expected { at: usize, expected: &'static str },
    #[error("at byte {at}: not a signal's name (a VSS path such as Vehicle.Speed)")]
    Signal { at: usize },
    #[error("at byte {at}: true and false are compared by == and != only")]
    BoolOrder { at: usize },
    #[error("at byte {at}: {cause}")]
    Window { at: usize, cause: WindowError },
}

impl std::str::FromStr for Expr {
    type Err = ParseError;

    fn from_str(source: &str) -> Result<Self, ParseError> {
        if source.len() > MAX_EXPRESSION_BYTES {
            return Err(ParseError::TooLong(source.len()));
        }
        let mut parser = Parser { tokens: tokens(source)?, next: 0, end: source.len(), terms: 0 };
        let expr = parser.any(0)?;
        match parser.peek() {
            None => Ok(expr),
            Some(_) => Err(parser.expected("\"and\", \"or\" or the end")),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    end: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut parts = vec![self.all(depth)?];
        while self.take_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(single_or(parts, Expr::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut parts = vec![self.one(depth)?];
        while self.take_word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(single_or(parts, Expr::All))
    }

    fn one(&mut self, depth: usize) -> Result<Expr, ParseError> {
        if depth > MAX_DEPTH {
            return Err(ParseError::TooDeep { at: self.at() });
        }
        if self.take_word("not") {
            return Ok(Expr::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take_symbol("(") {
            let inner = self.any(depth + 1)?;
            self.need_symbol(")", "a closing bracket")?;
            return Ok(inner);
        }
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(ParseError::TooManyTerms);
        }
        self.term()
    }

    fn term(&mut self) -> Result<Expr, ParseError> {
        let at = self.at();
        let expected = "a signal, a condition's name, \"window\", \"not\" or an opening bracket";
        let Some(TokenKind::Word(word)) = self.peek().cloned() else { return Err(self.expected(expected)) };
        if matches!(word, "and" | "or" | "true" | "false") {
            return Err(self.expected(expected));
        }
        self.next += 1;
        if word == "window" {
            return self.window(at);
        }
        if !word.contains('.') {
            return Ok(Expr::Named(word.to_owned()));
        }
        let signal = SignalName::new(word).map_err(|_| ParseError::Signal { at })?;
        let (operator, literal) = self.comparison()?;
        Ok(Expr::Compare(Comparison { signal, operator, literal }))
    }

    /// What follows a signal; nothing means `== true`.
    fn comparison(&mut self) -> Result<(Operator, Literal), ParseError> {
        let operator = match self.peek() {
            Some(TokenKind::Symbol("==")) => Operator::Equal,
            Some(TokenKind::Symbol("!=")) => Operator::NotEqual,
            Some(TokenKind::Symbol("<")) => Operator::Less,
            Some(TokenKind::Symbol("<=")) => Operator::LessOrEqual,
            Some(TokenKind::Symbol(">")) => Operator::Greater,
            Some(TokenKind::Symbol(">=")) => Operator::GreaterOrEqual,
            _ => return Ok((Operator::Equal, Literal::Bool(true))),
        };
        let at = self.at();
        self.next += 1;
        let literal = match self.peek() {
            Some(TokenKind::Number(number)) => Literal::Number(*number),
            Some(TokenKind::Word("true")) => Literal::Bool(true),
            Some(TokenKind::Word("false")) => Literal::Bool(false),
            _ => return Err(self.expected("a number, true or false")),
        };
        self.next += 1;
        if matches!(literal, Literal::Bool(_)) && !matches!(operator, Operator::Equal | Operator::NotEqual) {
            return Err(ParseError::BoolOrder { at });
        }
        Ok((operator, literal))
    }

    fn window(&mut self, at: usize) -> Result<Expr, ParseError> {
        self.need_symbol("(", "an opening bracket")?;
        let times = self.text()?;
        self.need_symbol(",", "a comma")?;
        let zone = self.text()?;
        let days = if self.take_symbol(",") { Some(self.text()?) } else { None };
        self.need_symbol(")", "a closing bracket")?;
        Window::parse(times, zone, days).map(Expr::Window).map_err(|cause| ParseError::Window { at, cause })
    }

    fn text(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(TokenKind::Text(text)) => {
                let text = *text;
                self.next += 1;
                Ok(text)
            }
            _ => Err(self.expected("a text in quotation marks")),
        }
    }

    fn peek(&self) -> Option<&TokenKind<'a>> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |token| token.at)
    }

    fn expected(&self, expected: &'static str) -> ParseError {
        ParseError::Expected { at: self.at(), expected }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(TokenKind::Word(w)) if *w == word);
        self.next += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(TokenKind::Symbol(s)) if *s == symbol);
        self.next += usize::from(found);
        found
    }

    fn need_symbol(&mut self, symbol: &str, expected: &'static str) -> Result<(), ParseError> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.expected(expected)) }
    }
}

fn single_or(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}
