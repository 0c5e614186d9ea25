use crate::parser::ParseError;

/// A word of a condition, with the byte it starts at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) at: usize,
    pub(crate) kind: TokenKind<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind<'a> {
    Word(&'a str),
    Number(f64),
    Text(&'a str),
    Symbol(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 9] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", ","];

/// Cuts a condition into words. The caller has checked its length.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut found = Vec::new();
    let mut rest = source;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        if rest.is_empty() {
            return Ok(found);
        }
        let at = source.len() - rest.len();
        let (kind, length) = next(rest).ok_or(ParseError::Character { at })?;
        rest = rest.get(length..).unwrap_or_default();
        found.push(Token { at, kind });
    }
}

/// The first word of `rest` and its length in bytes.
fn next(rest: &str) -> Option<(TokenKind<'_>, usize)> {
    if let Some(symbol) = SYMBOLS.into_iter().find(|s| rest.starts_with(s)) {
        return Some((TokenKind::Symbol(symbol), symbol.len()));
    }
    let first = rest.chars().next()?;
    if first == '"' {
        let text = rest.get(1..)?.split_once('"')?.0;
        return Some((TokenKind::Text(text), text.len() + 2));
    }
    let number = first.is_ascii_digit() || first == '-';
    // A minus sign stands only at a number's start; words may hold one (`battery-ok`). No exponents: nobody writes them here.
    let part = |(index, c): (usize, char)| {
        if number {
            c.is_ascii_digit() || c == '.' || (index == 0 && c == '-')
        } else {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
        }
    };
    let length = rest.char_indices().find(|&item| !part(item)).map_or(rest.len(), |(index, _)| index);
    let word = rest.get(..length)?;
    if number {
        return word.parse().ok().filter(|n: &f64| n.is_finite()).map(|n| (TokenKind::Number(n), length));
    }
    first.is_ascii_alphabetic().then_some((TokenKind::Word(word), length))
}
