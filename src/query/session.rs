//! What a filter may know of the session: parameters, settings of allowed prefixes, the user.

use std::cell::Cell;
use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use serde_json::Value;
use syncline_delta::Error;
use syncline_delta::filter::Constants;

use crate::error::Result;
use crate::pg::rights;

static PREFIXES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"app."));

/// Defines `syncline.filter_settings`.
pub fn define_settings() {
    GucRegistry::define_string_guc(
        c"syncline.filter_settings",
        c"prefixes of the settings that current_setting() in a filter may read",
        c"separated by commas",
        &PREFIXES,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// The session's side of a filter's constants.
pub struct Session<'a> {
    /// `params` of the shape.
    pub params: &'a [Value],
    /// Whether a setting was asked for, which may be another one in the next call.
    pub has_settings: Cell<bool>,
}

impl Constants for Session<'_> {
    fn param(&self, n: usize) -> Option<&Value> {
        self.params.get(n.checked_sub(1)?)
    }

    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>> {
        self.has_settings.set(true);
        let allowed = PREFIXES.get().unwrap_or_default();
        let allowed = allowed.to_string_lossy();
        if !allowed.split(',').map(str::trim).any(|prefix| !prefix.is_empty() && name.starts_with(prefix)) {
            return Err(Error::rule("42501", format!("setting \"{name}\" may not be read by a filter"))
                .with_hint("Setting syncline.filter_settings lists the prefixes that are allowed."));
        }
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the result is a palloc'd C string, or null if the setting is missing and that is allowed.
        unsafe {
            let value = pg_sys::GetConfigOptionByName(c_name.as_ptr(), std::ptr::null_mut(), missing_ok);
            Ok((!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned()))
        }
    }

    fn current_user(&self) -> String {
        // SAFETY: the name is a palloc'd C string.
        unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(rights::user(), false)) }.to_string_lossy().into_owned()
    }
}
