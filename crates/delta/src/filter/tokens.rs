//! The text as words, and the guards that keep a hostile one from exhausting the stack.
//!
//! The parser builds left-deep trees in a loop, so its recursion limit does not see them, but
//! dropping and reading them recurses. What may form such a chain is bounded here.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use super::parse::{ALLOWED, grammar};
use crate::Error;

/// The most tokens that are neither literals, commas, signs nor white space.
const MAX_TOKENS: usize = 10_000;
/// The most tokens between two ANDs, ORs or commas.
const MAX_RUN: usize = 200;
/// The deepest nesting of brackets.
pub(super) const MAX_NESTING: usize = 60;

pub(super) struct Tokens {
    pub(super) list: Vec<Token>,
    /// Whether an error may safely print parts of the tree.
    pub(super) small: bool,
}

pub(super) fn tokenise(text: &str) -> Result<Tokens, Error> {
    if text.len() > super::MAX_LENGTH {
        return Err(Error::Limit { what: "filter", limit: super::MAX_LENGTH });
    }
    if text.contains('\0') {
        return Err(syntax("a NUL character"));
    }
    let raw = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize().map_err(|e| syntax(e.message))?;
    let mut list = Vec::with_capacity(raw.len());
    for token in raw {
        match token {
            Token::Whitespace(Whitespace::MultiLineComment(_) | Whitespace::SingleLineComment { .. }) => {
                list.push(Token::Whitespace(Whitespace::Space));
            }
            Token::CustomBinaryOperator(symbol) => split_sign(symbol, &mut list),
            other => list.push(other),
        }
    }
    let counted = guard(&list)?;
    if counted == 0 && !list.iter().any(|token| !matches!(token, Token::Whitespace(_))) {
        return Err(syntax("an empty condition"));
    }
    Ok(Tokens { list, small: counted <= 500 })
}

/// `a >-1` is a comparison and a sign: an operator of Postgres does not end in a sign
/// unless it has a character that no standard operator has.
fn split_sign(symbol: String, list: &mut Vec<Token>) {
    let operator = match symbol.strip_suffix('-') {
        Some("=") => Token::Eq,
        Some("<>") => Token::Neq,
        Some("<") => Token::Lt,
        Some("<=") => Token::LtEq,
        Some(">") => Token::Gt,
        Some(">=") => Token::GtEq,
        _ => return list.push(Token::CustomBinaryOperator(symbol)),
    };
    list.extend([operator, Token::Minus]);
}

/// What is open at one depth of brackets.
#[derive(Default)]
struct Level {
    run: usize,
    /// BETWEENs whose AND is still to come: that AND ends no condition.
    betweens: usize,
}

/// Checks the limits and returns the number of tokens that count.
fn guard(list: &[Token]) -> Result<usize, Error> {
    let mut counted = 0;
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    for token in list {
        if matches!(token, Token::Whitespace(_)) {
            continue;
        }
        level.run += 1;
        match token {
            Token::Word(word) => match word.keyword {
                _ if word.quote_style.is_some() => {}
                // Its AND would be taken for the end of a condition.
                Keyword::CASE => return Err(grammar("CASE", ALLOWED)),
                Keyword::BETWEEN => level.betweens += 1,
                Keyword::AND if level.betweens > 0 => level.betweens -= 1,
                Keyword::AND | Keyword::OR => level = Level::default(),
                _ => {}
            },
            Token::Comma => level = Level::default(),
            Token::LParen | Token::LBracket | Token::LBrace => {
                outer.push(std::mem::take(&mut level));
                if outer.len() > MAX_NESTING {
                    return Err(Error::Limit { what: "nesting of the filter", limit: MAX_NESTING });
                }
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // Too many of them is for the parser to report.
                level = outer.pop().unwrap_or_default();
            }
            _ => {}
        }
        if level.run > MAX_RUN {
            return Err(Error::Limit { what: "a single condition of the filter", limit: MAX_RUN });
        }
        if !matches!(
            token,
            Token::Comma
                | Token::Minus
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::EscapedStringLiteral(_)
                | Token::DollarQuotedString(_)
                | Token::Placeholder(_)
        ) {
            counted += 1;
        }
    }
    if counted > MAX_TOKENS {
        return Err(Error::Limit { what: "filter", limit: MAX_TOKENS });
    }
    Ok(counted)
}

pub(super) fn syntax(detail: impl Into<String>) -> Error {
    Error::FilterSyntax { detail: detail.into() }
}
