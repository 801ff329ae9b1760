//! Relations that exist for one call: rows in the form of a table's own, under a name that queries can read.
//!
//! The mechanism is the one behind the transition tables of triggers (named tuplestores). Since the row type is
//! that of the table, a kept plan is analysed again when the table changes.

use std::ffi::CString;

use pgrx::pg_sys;

/// Some rows of a table's row type. It is freed with the memory context that it was made in.
pub struct Ephemeral {
    name: CString,
    relation: pg_sys::Oid,
    descriptor: pg_sys::TupleDesc,
    store: *mut pg_sys::Tuplestorestate,
    count: usize,
}

impl Ephemeral {
    /// No rows yet, of the row type of `relation`.
    pub fn new(name: &str, relation: pg_sys::Oid) -> Self {
        // SAFETY: the relation is open while its descriptor is copied; the store is rewound by each scan, which
        // is what tuplestore_begin_heap provides for without further flags.
        let (descriptor, store) = unsafe {
            let rel = pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let descriptor = pg_sys::CreateTupleDescCopy((*rel).rd_att);
            pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
            (descriptor, pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem))
        };
        Self { name: CString::new(name).unwrap_or_default(), relation, descriptor, store, count: 0 }
    }

    /// Appends a row with these columns, by attribute number; the others are NULL.
    pub fn put(&mut self, columns: impl IntoIterator<Item = (i16, Option<pg_sys::Datum>)>) {
        // SAFETY: both arrays have as many members as the descriptor; tuplestore_putvalues copies the values.
        unsafe {
            let width = usize::try_from((*self.descriptor).natts).unwrap_or(0);
            let mut values = vec![pg_sys::Datum::from(0usize); width];
            let mut nulls = vec![true; width];
            for (number, value) in columns {
                let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
                if let (Some(datum), true) = (value, place < width) {
                    values[place] = datum;
                    nulls[place] = false;
                }
            }
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        self.count += 1;
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lets queries of the connected SPI session read it.
    ///
    /// # Safety
    ///
    /// SPI is connected; this relation lives until SPI_finish.
    pub unsafe fn register(&self) {
        // SAFETY: the caller's promise; the record is allocated in SPI's own context and refers to what lives longer.
        unsafe {
            let enr = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>());
            let enr = enr.cast::<pg_sys::EphemeralNamedRelationData>();
            (*enr).md.name = self.name.as_ptr().cast_mut();
            (*enr).md.reliddesc = self.relation;
            (*enr).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*enr).md.enrtuples = self.count as f64;
            (*enr).reldata = self.store.cast();
            let result = pg_sys::SPI_register_relation(enr);
            assert_eq!(result, pg_sys::SPI_OK_REL_REGISTER as i32, "a relation of this call has a name of its own");
        }
    }
}
