//! Output settings that do not depend on the session, and the identity under which internal tables are read.

use std::ffi::CStr;

use pgrx::pg_sys;

/// What the bytes of a delta, and the values of a filter's constants, depend on. ISO 8601 where there is a choice.
const PINNED: [(&CStr, &CStr); 12] = [
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"iso_8601"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"search_path", c"pg_catalog, pg_temp"),
    // The names that regclass and its like are written as.
    (c"quote_all_identifiers", c"off"),
    // Only the input of constants depends on these.
    (c"array_nulls", c"on"),
    (c"xmloption", c"content"),
    (c"timezone_abbreviations", c"Default"),
    // Not the bytes, but the time: compiling the queries of one pull takes longer than running them.
    (c"jit", c"off"),
];

/// Whether there is a value for a setting, be it defined or not.
pub fn is_given(name: &CStr) -> bool {
    // SAFETY: the name is a C string; nothing is thrown for a setting that is missing.
    unsafe { !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null() }
}

/// Runs `work` under the pinned settings.
pub fn pinned<T>(work: impl FnOnce() -> T) -> T {
    with_all(&PINNED, work)
}

/// Runs `work` under one more setting.
pub fn with<T>(name: &CStr, value: &CStr, work: impl FnOnce() -> T) -> T {
    with_all(&[(name, value)], work)
}

fn with_all<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: the nest level is closed below, or by Postgres when the transaction aborts.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for &(name, value) in settings {
        // SAFETY: both are C strings; the settings exist in every supported version, and the text of one is looked at
        // before the next call. What is so already is left alone: abbreviations are read from a file.
        unsafe {
            let now = pg_sys::GetConfigOption(name.as_ptr(), true, false);
            if !now.is_null() && CStr::from_ptr(now) == value {
                continue;
            }
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
    let result = work();
    // SAFETY: closes the level opened above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}

/// Whether this session looks into any schema for names without one.
pub fn has_search_path() -> bool {
    // SAFETY: the setting exists; its text is looked at before anything can change it.
    unsafe {
        let now = pg_sys::GetConfigOption(c"search_path".as_ptr(), true, false);
        !now.is_null() && !CStr::from_ptr(now).to_bytes().trim_ascii().is_empty()
    }
}

/// Runs `work` with the rights of the bootstrap superuser, who owns the internal tables.
/// Only fixed SQL over those tables may run in it.
pub fn as_owner<T>(work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: restored below, or by Postgres when the transaction aborts.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let local = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        pg_sys::SetUserIdAndSecContext(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), local);
    }
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Runs `work` with the rights of a table's owner, as Postgres runs what stands in indexes: triggers and checks
/// of the owner's must not get the rights of whoever calls.
pub fn as_table_owner<T>(table: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the table exists, as the caller holds a lock; it is closed again.
    let owner = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let rel = pg_sys::relation_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let owner = (*(*rel).rd_rel).relowner;
        pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        owner
    };
    if owner == user {
        return work();
    }
    // SAFETY: restored below, or by Postgres when the transaction aborts.
    let level = unsafe {
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
        pg_sys::NewGUCNestLevel()
    };
    let result = work();
    // SAFETY: see above; settings that the owner's functions changed go back.
    unsafe {
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}
