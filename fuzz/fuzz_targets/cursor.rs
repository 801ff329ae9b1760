//! No cursor may panic.
#![no_main]
use std::str::FromStr;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = syncline_delta::cursor::Cursor::from_str(text);
});
