//! What a policy's text becomes is a filter like any other: it prints as text that is read again.
#![no_main]
use syncline_delta::Error;
use syncline_delta::filter::{Filter, PolicyValue};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut evaluate = |sql: &str| match sql.len() % 4 {
        0 => Ok(PolicyValue::Null),
        1 => Ok(PolicyValue::Bool(sql.len() % 8 == 1)),
        2 => Ok(PolicyValue::Text(sql.to_owned())),
        _ => Err(Error::rule("22012", "division by zero")),
    };
    let Ok(filter) = Filter::policy(text, "t", &mut evaluate) else { return };
    let printed = filter.to_string();
    match Filter::parse(&printed) {
        // The canonical text may have more brackets than what was written.
        Err(Error::Limit { .. }) => {}
        again => assert!(again.is_ok(), "{printed}: {again:?}"),
    }
});
