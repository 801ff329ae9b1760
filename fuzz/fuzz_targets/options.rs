//! Options of the stream that are accepted hold no names of shapes and nothing left to fold. The text has one in each line, its
//! name and its value.
#![no_main]
use syncline_delta::filter::Filter;
use syncline_delta::stream::options::Options;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let pairs = text.lines().map(|line| line.split_once(' ').map_or((line, None), |(name, value)| (name, Some(value))));
    let Ok(options) = Options::parse(pairs) else { return };
    assert!(options.not_before.is_none() || options.since.is_none());
    assert!(options.topics.iter().all(|prefix| options.wants(prefix)));
    let _ = options.unqualified();
    for (id, shape) in &options.shapes {
        assert!(!id.is_empty() && !shape.tables.is_empty(), "{text}");
        assert!(shape.tables.iter().filter_map(|table| table.filter.as_ref()).all(|filter: &Filter| filter.params().is_empty()));
    }
});
