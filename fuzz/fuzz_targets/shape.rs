//! No shape may panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = syncline_delta::shape::Shape::parse(text);
});
