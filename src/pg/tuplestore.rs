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
        // and fills in the result's store and descriptor: a copy of the caller's, which is that of the declaration.
        unsafe {
            pg_sys::InitMaterializedSRF(call.raw(), pg_sys::MAT_SRF_USE_EXPECTED_DESC);
            let info = (*call.raw()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: (*info).setResult, descriptor: (*info).setDesc }
        }
    }

    /// Forgets all rows.
    pub fn clear(&self) {
        // SAFETY: the store is live, and no scan of it is under way.
        unsafe { pg_sys::tuplestore_clear(self.store) };
    }

    /// Appends a row of texts (or JSON, which is stored alike); an empty one is NULL.
    ///
    /// The values are laid out in `scratch`, which is kept from row to row: a first pull of a million rows
    /// would otherwise allocate five million times.
    pub fn put<const N: usize>(&self, scratch: &mut Vec<u64>, texts: [&[u8]; N]) {
        const HEADER: usize = 4;
        let words = |text: &[u8]| (text.len() + HEADER).div_ceil(size_of::<u64>());
        scratch.resize(texts.iter().map(|text| words(text)).sum(), 0);
        let mut nulls = texts.map(<[u8]>::is_empty);
        let mut place = scratch.as_mut_ptr();
        // SAFETY: each text has its own words in `scratch`, aligned, with room for a varlena header; the
        // descriptor has N columns of text or json; tuplestore_putvalues copies what it is given.
        unsafe {
            let mut values = texts.map(|text| {
                let start = place.cast::<u8>();
                let length = i32::try_from(text.len() + HEADER).unwrap_or(i32::MAX);
                pgrx::varlena::set_varsize_4b(start.cast(), length);
                std::ptr::copy_nonoverlapping(text.as_ptr(), start.add(HEADER), text.len());
                place = place.add(words(text));
                pg_sys::Datum::from(start)
            });
            assert_eq!((*self.descriptor).natts as usize, N, "a row of the declared form");
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
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
