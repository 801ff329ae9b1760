//! Memory for what is needed for a moment.

use pgrx::PgMemoryContexts;

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
