//! Noticing that definitions changed: what was read from the catalog is read again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use pgrx::{pg_guard, pg_sys};

thread_local! {
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// Rises with each change of a relation, its columns, keys, triggers, policies and privileges, and of what names, types,
/// operators and rights are made of. Other sessions' changes are noticed when a lock is taken.
pub fn generation() -> u64 {
    GENERATION.get()
}

/// What was read from the catalog, as long as no definition changes. Who asks has a lock on what it tells of, or makes do
/// with what was so at the beginning of the transaction.
pub struct Remembered<K, V>(RefCell<(u64, HashMap<K, V>)>);

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(RefCell::default())
    }

    /// What `read` gives, or gave.
    pub fn get(&self, key: K, read: impl FnOnce(&K) -> V) -> V {
        let now = generation();
        let known = {
            let (generation, known) = &mut *self.0.borrow_mut();
            if *generation != now {
                known.clear();
                *generation = now;
            }
            known.get(&key).cloned()
        };
        known.unwrap_or_else(|| {
            let value = read(&key);
            // Reading takes in what others have altered.
            if generation() == now {
                self.0.borrow_mut().1.insert(key, value.clone());
            }
            value
        })
    }
}

/// Starts to notice.
pub fn watch() {
    #[pg_guard]
    unsafe extern "C-unwind" fn of_relation(_argument: pg_sys::Datum, _changed: pg_sys::Oid) {
        GENERATION.set(GENERATION.get() + 1);
    }
    #[pg_guard]
    unsafe extern "C-unwind" fn of_catalog(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
        GENERATION.set(GENERATION.get() + 1);
    }
    use pg_sys::SysCacheIdentifier as Cache;
    const CACHES: [Cache::Type; 11] = [
        Cache::NAMESPACEOID,
        Cache::TYPEOID,
        Cache::CASTSOURCETARGET,
        Cache::OPEROID,
        Cache::CLAOID,
        Cache::PROCOID,
        Cache::COLLOID,
        Cache::ENUMOID,
        Cache::AUTHOID,
        Cache::AUTHMEMMEMROLE,
        Cache::DATABASEOID,
    ];
    // SAFETY: the callbacks stay valid as long as the library is loaded, which is for ever.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(of_relation), pg_sys::Datum::from(0usize));
        for cache in CACHES {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(of_catalog), pg_sys::Datum::from(0usize));
        }
    }
}
