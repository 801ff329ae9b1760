//! Every way in which a call can be refused: one variant per rule, with its SQLSTATE, DETAIL and HINT.

use std::fmt;

/// A refusal. Messages are written as Postgres writes them; values of rows never appear in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Text that is no cursor: malformed, damaged, or of an unknown version.
    Cursor {
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A shape, filter or cursor over a limit.
    Limit {
        /// What is too large.
        what: &'static str,
        /// The most that is accepted.
        limit: usize,
    },
    /// A shape that is not of the documented form.
    Shape {
        /// What is wrong, as a phrase.
        message: String,
        /// What is accepted instead.
        hint: String,
    },
    /// A filter that is not in the closed grammar.
    FilterGrammar {
        /// The offending words.
        words: String,
        /// What to do instead.
        hint: String,
    },
    /// A filter that is no SQL at all.
    FilterSyntax {
        /// The parser's message.
        detail: String,
    },
    /// `$n` without a value, or a value without `$n`.
    Params {
        /// What does not fit.
        message: String,
    },
    /// Any other rule, with its own SQLSTATE.
    Rule {
        /// Five characters.
        sqlstate: &'static str,
        /// Lower case, no full stop.
        message: String,
        /// A sentence, or nothing.
        detail: Option<String>,
        /// A sentence, or nothing.
        hint: Option<String>,
    },
}

impl Error {
    /// A rule of the server side, with its SQLSTATE.
    pub fn rule(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::Rule { sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// The same error with a DETAIL sentence.
    pub fn with_detail(mut self, text: impl Into<String>) -> Self {
        if let Self::Rule { detail, .. } = &mut self {
            *detail = Some(text.into());
        }
        self
    }

    /// The same error with a HINT sentence.
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Rule { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// The SQLSTATE under which Postgres reports it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Cursor { .. } => "22P02",
            Self::Limit { .. } => "54000",
            Self::Shape { .. } | Self::Params { .. } => "22023",
            Self::FilterGrammar { .. } => "0A000",
            Self::FilterSyntax { .. } => "42601",
            Self::Rule { sqlstate, .. } => sqlstate,
        }
    }

    /// The DETAIL sentence.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Cursor { detail } => Some((*detail).to_owned()),
            Self::Limit { limit, .. } => Some(format!("At most {limit} are accepted.")),
            Self::FilterSyntax { detail } => Some(detail.clone()),
            Self::Rule { detail, .. } => detail.clone(),
            _ => None,
        }
    }

    /// The HINT sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cursor { .. } => {
                Some("Pass a cursor as sync_changes returned it, or NULL to start from nothing.".to_owned())
            }
            Self::Shape { hint, .. } | Self::FilterGrammar { hint, .. } => Some(hint.clone()),
            Self::Rule { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cursor { .. } => f.write_str("invalid cursor"),
            Self::Limit { what, .. } => write!(f, "{what} is too large"),
            Self::Shape { message, .. } | Self::Params { message } | Self::Rule { message, .. } => f.write_str(message),
            Self::FilterGrammar { words, .. } => write!(f, "filter uses what the grammar does not have: {words}"),
            Self::FilterSyntax { .. } => f.write_str("filter is not a valid SQL condition"),
        }
    }
}

impl std::error::Error for Error {}
