//! Memory for what is needed for a moment.

use std::ffi::CStr;

use pgrx::{PgMemoryContexts, pg_sys};

/// A memory context that is emptied after each use.
pub struct Scratch(PgMemoryContexts);

impl Scratch {
    /// An empty one.
    pub fn new() -> Self {
        Self(PgMemoryContexts::new("syncline scratch"))
    }

    /// Runs `work`; what it allocates from Postgres is freed when it ends and must not be part of the result.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the context is this value's own, and nothing that lives longer is allocated in it.
        unsafe {
            let result = self.0.switch_to(|_| work());
            self.0.reset();
            result
        }
    }
}

/// A memory context below another one, which frees it at the latest: its owner may be gone by then.
#[derive(Clone, Copy)]
pub struct Area(pg_sys::MemoryContext);

impl Area {
    /// # Safety
    ///
    /// `parent` is a live context, and nothing of the area is used behind its end.
    pub unsafe fn under(parent: pg_sys::MemoryContext, name: &'static CStr) -> Self {
        // SAFETY: the caller's promise; the name is static.
        Self(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                parent,
                name.as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// An area that ends with the call, at the latest.
    pub fn of_call(name: &'static CStr) -> Self {
        // SAFETY: the current context is live, and that of the call.
        unsafe { Self::under(pg_sys::CurrentMemoryContext, name) }
    }

    /// From now on it is there until it is freed.
    pub fn outlive_call(&self) {
        // SAFETY: both contexts are live.
        unsafe { pg_sys::MemoryContextSetParent(self.0, pg_sys::CacheMemoryContext) }
    }

    /// An area inside this one.
    pub fn inner(&self, name: &'static CStr) -> Self {
        // SAFETY: this area is live, and frees the other with itself.
        unsafe { Self::under(self.0, name) }
    }

    /// Runs `work`, whose allocations stay.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the area is live; an error leaves the current context to Postgres.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = work();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }

    /// Frees all that was allocated in it, and the areas inside.
    pub fn empty(&self) {
        // SAFETY: the area is live; who empties it uses nothing of what it held.
        unsafe {
            if !(*self.0).isReset || !(*self.0).firstchild.is_null() {
                pg_sys::MemoryContextReset(self.0);
            }
        }
    }

    /// Frees the area itself.
    pub fn free(self) {
        // SAFETY: see `empty`.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}
