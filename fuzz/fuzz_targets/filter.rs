//! A filter that is read prints as text that is read as the same filter, and folding leaves nothing to fold.
#![no_main]
use serde_json::{Value, json};
use syncline_delta::Error;
use syncline_delta::filter::{Constants, Filter};

/// A call with some values of each kind.
struct Call([Value; 4]);

impl Constants for Call {
    fn param(&self, n: usize) -> Option<&Value> {
        self.0.get(n - 1)
    }

    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>, Error> {
        match name {
            "app.x" => Ok(Some("v\\".to_owned())),
            _ if missing_ok => Ok(None),
            _ => Err(Error::rule("42704", "unrecognized configuration parameter")),
        }
    }

    fn current_user(&self) -> String {
        "alice".to_owned()
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(filter) = Filter::parse(text) else { return };
    let printed = filter.to_string();
    match Filter::parse(&printed) {
        // The canonical text may have more brackets than what was written.
        Err(Error::Limit { .. }) => {}
        again => assert_eq!(again.as_ref(), Ok(&filter), "{printed}"),
    }
    let columns: Vec<String> = filter.columns().into_iter().map(str::to_owned).collect();
    let call = Call([json!(3), json!("x\\\\"), json!([1, null, "a"]), json!({"k": 1.50})]);
    if let Ok(folded) = filter.fold(&call) {
        assert!(folded.params().is_empty(), "{printed}");
        assert_eq!(folded.columns().into_iter().collect::<Vec<_>>(), columns, "{printed}");
        let once = folded.to_string();
        assert_eq!(folded.fold(&call).map(|filter| filter.to_string()), Ok(once), "{printed}");
    }
});
