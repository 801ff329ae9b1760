//! Rules on constants that hold when a filter is parsed and again when its values are folded in.

use serde_json::Value;

use super::Const;
use crate::Error;

/// A LIKE pattern must be text and must not fail on a row, as one with a dangling escape does.
pub(super) fn pattern(value: &Const) -> Result<(), Error> {
    let text = match value {
        Const::Text(text) | Const::Json(Value::String(text)) => text,
        Const::Cast { value, .. } => return pattern(value),
        Const::Null | Const::Json(Value::Null) | Const::Param(_) | Const::Setting { .. } | Const::CurrentUser => {
            return Ok(());
        }
        Const::Bool(_) | Const::Number(_) | Const::Json(_) => {
            return Err(Error::FilterGrammar {
                words: "LIKE with a pattern that is no text".to_owned(),
                hint: "Write the pattern as a string.".to_owned(),
            });
        }
    };
    if text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
        return Err(Error::FilterGrammar {
            words: "LIKE with a pattern that ends in a single backslash".to_owned(),
            hint: "Double the backslash to match one.".to_owned(),
        });
    }
    Ok(())
}

/// What `= ANY` looks through must be able to be an array.
pub(super) fn array(value: &Const) -> Result<(), Error> {
    match value {
        Const::Cast { value, .. } => array(value),
        Const::Bool(_) | Const::Number(_) | Const::Json(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            Err(Error::FilterGrammar {
                words: "= ANY with what is no array".to_owned(),
                hint: "Write = ANY($1) with a JSON array as the value, or = ANY(ARRAY[...]).".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Postgres reads `'now'::timestamptz` as the time of the call: a shape must not depend on it.
pub(super) fn cast(value: &Const, to: &str) -> Result<(), Error> {
    let (Const::Text(text) | Const::Json(Value::String(text))) = value else {
        return Ok(());
    };
    let temporal = to.starts_with("date") || to.starts_with("time");
    let moving =
        |word: &str| ["now", "today", "tomorrow", "yesterday"].iter().any(|moving| word.eq_ignore_ascii_case(moving));
    if temporal && text.split(|c: char| !c.is_ascii_alphabetic()).any(moving) {
        return Err(Error::FilterGrammar {
            words: "a time that depends on when it is read".to_owned(),
            hint: super::parse::HINT_TIME.to_owned(),
        });
    }
    Ok(())
}
