//! Reading tables as their owners do, for queries whose conditions hold all that restricts the caller.
//!
//! This is how Postgres reads the tables behind a view: privileges and row security are those of somebody else, while
//! every function in the query runs with the rights of who asks. A query is recognised by the address of its
//! text, which nobody else can present: what a user's function runs meanwhile is not trusted.

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use pgrx::{pg_guard, pg_sys};

use super::version;

thread_local! {
    /// The text whose analysis is ours.
    static TRUSTED: Cell<*const c_char> = const { Cell::new(std::ptr::null()) };
    static BEFORE: Cell<pg_sys::post_parse_analyze_hook_type> = const { Cell::new(None) };
}

/// Whose rights count.
pub fn user() -> pg_sys::Oid {
    // SAFETY: reads this backend's state.
    unsafe { pg_sys::GetUserId() }
}

/// Looks at every analysed query from now on.
pub fn watch_analysis() {
    // SAFETY: hooks are set when the library is loaded, before any other thread or query of this backend runs.
    unsafe {
        BEFORE.set(pg_sys::post_parse_analyze_hook);
        pg_sys::post_parse_analyze_hook = Some(analysed);
    }
}

/// Runs `work`, in which the text at this address is analysed as ours.
pub fn trusting<T>(text: Option<*const c_char>, work: impl FnOnce() -> T) -> T {
    /// An error unwinds through here too.
    struct Restore(*const c_char);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRUSTED.set(self.0);
        }
    }
    let _restore = Restore(TRUSTED.replace(text.unwrap_or_default()));
    work()
}

/// The text that a plan is analysed from.
///
/// # Safety
///
/// `plan` is valid.
pub unsafe fn source_text(plan: pg_sys::SPIPlanPtr) -> *const c_char {
    // SAFETY: the caller's promise; a prepared SELECT has one source.
    unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan);
        (*(*(*sources).elements).ptr_value.cast::<pg_sys::CachedPlanSource>()).query_string
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn analysed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: Postgres passes a valid state and tree; the other hook is called as it would have been.
    unsafe {
        if let Some(before) = BEFORE.get() {
            before(state, query, jumble);
        }
        let text = (*state).p_sourcetext;
        if !text.is_null() && text == TRUSTED.get() {
            pg_sys::ffi::pg_guard_ffi_boundary(|| walk(query.cast(), std::ptr::null_mut()));
        }
    }
}

/// Marks every table of a query and of those inside it.
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node tag tells the struct; the walkers pass valid nodes.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_Query {
            return version::walk_expression(node, walk, context);
        }
        let query = node.cast::<pg_sys::Query>();
        version::check_tables_as(query, pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID));
        version::walk_query(query, walk, context)
    }
}
