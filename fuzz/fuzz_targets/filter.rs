//! What parses must print as text that parses to the same filter.
#![no_main]
use syncline_delta::filter::Filter;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(filter) = Filter::parse(text) {
        assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
    }
});
