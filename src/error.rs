//! The one place where a refusal becomes a Postgres error.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use syncline_delta::Error;

/// The result of everything that can be refused.
pub type Result<T> = std::result::Result<T, Error>;

/// Six bits a character, as the MAKE_SQLSTATE macro of Postgres packs them.
fn code(sqlstate: &str) -> PgSqlErrorCode {
    let packed = sqlstate.bytes().rev().fold(0i32, |sum, byte| (sum << 6) | ((i32::from(byte) - 0x30) & 0x3f));
    PgSqlErrorCode::from(packed)
}

/// Reports the error and does not return: Rust frames are unwound up to the entry point's guard.
pub fn raise(error: &Error) -> ! {
    let mut report = ErrorReport::new(code(error.sqlstate()), error.to_string(), "syncline");
    if let Some(detail) = error.detail() {
        report = report.set_detail(detail);
    }
    if let Some(hint) = error.hint() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an error report does not return")
}

/// Unwraps what an entry point got.
pub fn unwrap_or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| raise(&error))
}
