//! A cursor that is read prints as URL-safe text that is read as the same cursor, and prints the same ever after.
#![no_main]
use syncline_delta::cursor::Cursor;
use syncline_delta::snapshot::Snapshot;

/// The text with the checksum that it should have: no mutation finds one by chance.
fn sealed(part: &str) -> String {
    format!("{part}.{:08x}", crc32fast::hash(part.as_bytes()))
}

fn check_cursor(text: &str) {
    let Ok(cursor) = text.parse::<Cursor>() else { return };
    let printed = cursor.to_string();
    assert!(printed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)), "{printed}");
    assert_eq!(printed.parse(), Ok(cursor.clone()), "{printed}");
    check_snapshot(&cursor.position.snapshot.to_string());
}

fn check_snapshot(text: &str) {
    let Ok(snapshot) = text.parse::<Snapshot>() else { return };
    assert_eq!(snapshot.to_string().parse(), Ok(snapshot.clone()), "{text}");
    assert!(snapshot.dominates(&snapshot) && !snapshot.sees(snapshot.xmax()));
    assert!(snapshot.xip().iter().all(|&xid| !snapshot.sees(xid)));
    assert!(snapshot.xmin() == 0 || snapshot.sees(snapshot.xmin() - 1));
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    check_cursor(text);
    check_snapshot(text);
    let parts: Vec<String> = text.split('~').map(sealed).collect();
    check_cursor(&parts.join("~"));
});
