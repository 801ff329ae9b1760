//! Sets as results, materialised: rows go to memory up to work_mem, then to disk.

use pgrx::pg_sys;

use super::function::Call;

/// A row store. It is freed with the memory context that it was made in.
#[derive(Clone, Copy)]
pub struct Tuplestore {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl Tuplestore {
    /// The result of a set-returning function.
    pub fn result(call: &Call) -> Self {
        // SAFETY: the frame is that of a set-returning function; InitMaterializedSRF checks that
        // and fills in the result's store and descriptor.
        unsafe {
            pg_sys::InitMaterializedSRF(call.raw(), 0);
            let info = (*call.raw()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: (*info).setResult, descriptor: (*info).setDesc }
        }
    }

    /// An empty store for rows of the same form.
    pub fn spool(&self) -> Self {
        // SAFETY: plain allocation in the current memory context.
        Self { store: unsafe { pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem) }, ..*self }
    }

    /// Appends a row.
    pub fn put<const N: usize>(&self, mut values: [pg_sys::Datum; N], mut nulls: [bool; N]) {
        // SAFETY: the descriptor has N columns; tuplestore_putvalues copies what it is given.
        unsafe {
            assert_eq!((*self.descriptor).natts as usize, N, "a row of the declared form");
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }

    /// Moves all rows of a spool behind those of this store.
    pub fn append(&self, spool: Self) {
        // SAFETY: the slot fits the store's minimal tuples and is dropped below.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(self.descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
            while pg_sys::tuplestore_gettupleslot(spool.store, true, false, slot) {
                pg_sys::tuplestore_puttupleslot(self.store, slot);
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::tuplestore_end(spool.store);
        }
    }
}

/// A composite result of the called function's declared row type; no column is NULL.
pub fn record<const N: usize>(call: &Call, mut values: [pg_sys::Datum; N]) -> pg_sys::Datum {
    let mut nulls = [false; N];
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the function is declared with N output columns of the values' types.
    unsafe {
        pg_sys::get_call_result_type(call.raw(), std::ptr::null_mut(), &mut descriptor);
        let descriptor = pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}
