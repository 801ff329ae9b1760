//! Row triggers without SPI and without a catalog look-up per row.

use pgrx::pg_sys;

use super::function::Call;
use super::image::{self, Storage};
use super::version;
use crate::error::Result;
use syncline_delta::Error;

/// What fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row that goes.
    Delete,
}

/// The trigger call in progress.
pub struct RowEvent<'a> {
    data: &'a pg_sys::TriggerData,
    /// What fired.
    pub event: Event,
}

/// A row version, as the trigger got it.
#[derive(Clone, Copy)]
pub struct Tuple(pg_sys::HeapTuple);

impl<'a> RowEvent<'a> {
    /// The row event, if this call is one at the right time.
    pub fn new(call: &'a Call, before: bool) -> Result<Self> {
        // SAFETY: when the context node is a TriggerData it is a valid one for the time of the call.
        let data = unsafe {
            let context = (*call.raw()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Error::rule("39P01", "this function is called by its trigger only"));
            }
            &*context.cast::<pg_sys::TriggerData>()
        };
        let timing = data.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK;
        let row = data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
        if !row || timing != if before { pg_sys::TRIGGER_EVENT_BEFORE } else { pg_sys::TRIGGER_EVENT_AFTER } {
            return Err(Error::rule("39P01", "this function serves the triggers that sync_track makes only"));
        }
        let event = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            _ => Event::Delete,
        };
        Ok(Self { data, event })
    }

    /// OID of the relation whose row it is.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open during the call.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    /// Whether this transaction has written the whole relation anew: then it made all row versions.
    pub fn is_rewritten(&self) -> bool {
        // SAFETY: the relation is open during the call.
        unsafe { version::is_rewritten(self.data.tg_relation) }
    }

    /// The row as it was (UPDATE, DELETE) or the new row (INSERT).
    pub fn first(&self) -> Tuple {
        Tuple(self.data.tg_trigtuple)
    }

    /// The row as it will be.
    pub fn new_row(&self) -> Tuple {
        Tuple(if self.event == Event::Update { self.data.tg_newtuple } else { self.data.tg_trigtuple })
    }

    /// A column of a row version.
    pub fn value(&self, tuple: Tuple, attribute: i16) -> Option<pg_sys::Datum> {
        // SAFETY: the tuple is of the trigger's relation and the number one of its columns.
        unsafe {
            let mut null = false;
            let descriptor = (*self.data.tg_relation).rd_att;
            let datum = pg_sys::heap_getattr(tuple.0, i32::from(attribute), descriptor, &mut null);
            (!null).then_some(datum)
        }
    }

    /// Whether an UPDATE is about to store the row as it is. What a generated column will be is not known yet: its function
    /// may have been replaced.
    pub fn is_copy(&self) -> bool {
        if self.event != Event::Update {
            return false;
        }
        // SAFETY: the relation is open; both tuples have a header and `t_len` bytes, those of the bitmap and the columns
        // behind the fixed part of the header.
        unsafe {
            let constr = (*(*self.data.tg_relation).rd_att).constr;
            if !constr.is_null() && (*constr).has_generated_stored {
                return false;
            }
            let parts = |tuple: Tuple| {
                let (header, length) = ((*tuple.0).t_data, (*tuple.0).t_len as usize);
                let fixed = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);
                let columns = u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK;
                let has_null = u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL;
                let bytes = std::slice::from_raw_parts(header.cast::<u8>().add(fixed), length - fixed);
                (columns, has_null, (*header).t_hoff, bytes)
            };
            parts(self.first()) == parts(self.new_row())
        }
    }

    /// Whether an UPDATE stored the row as it was.
    pub fn is_unchanged(&self) -> bool {
        // SAFETY: the relation is open during the call.
        let attributes = unsafe { super::relation::attributes((*self.data.tg_relation).rd_att) };
        self.event == Event::Update
            && attributes.iter().all(|a| {
                same_bytes(a.storage, self.value(self.first(), a.number), self.value(self.new_row(), a.number))
            })
    }

    /// The row that is about to be stored, with this in a `bigint` column that is not NULL.
    ///
    /// A row that the executor's slot made for itself is changed where it stands: otherwise it is taken apart, put together,
    /// and copied into the slot.
    pub fn with_int8(&self, attribute: i16, value: i64) -> Tuple {
        let new = self.new_row();
        // SAFETY: the slot is that of the new row, and of the relation that has the column.
        let place = unsafe { self.own_int8(new, attribute) };
        if let Some((place, datum)) = place {
            // SAFETY: `own_int8` found the value there, and the slot's reading of it.
            unsafe { (place.write_unaligned(value), datum.write(pg_sys::Datum::from(value))) };
            return new;
        }
        if self.value(new, attribute).is_some_and(|datum| datum.value() as i64 == value) {
            return new;
        }
        let mut column = i32::from(attribute);
        let mut datum = pg_sys::Datum::from(value);
        let mut null = false;
        // SAFETY: see `value`; the result is allocated in the per-tuple context of the executor.
        Tuple(unsafe {
            let descriptor = (*self.data.tg_relation).rd_att;
            pg_sys::heap_modify_tuple_by_cols(new.0, descriptor, 1, &raw mut column, &raw mut datum, &raw mut null)
        })
    }

    /// Where a `bigint` of the new row stands, and where its slot keeps it once read, if that row is the slot's own.
    ///
    /// # Safety
    ///
    /// The number is that of such a column.
    unsafe fn own_int8(&self, new: Tuple, attribute: i16) -> Option<(*mut i64, *mut pg_sys::Datum)> {
        let slot = if self.event == Event::Update { self.data.tg_newslot } else { self.data.tg_trigslot };
        // SAFETY: slots and tuple live during the call; those of these two kinds begin with the fields of the first. A slot that has just
        // read the columns up to this one, out of its tuple, knows where that ends.
        unsafe {
            let is_heap = !slot.is_null()
                && [&raw const pg_sys::TTSOpsBufferHeapTuple, &raw const pg_sys::TTSOpsHeapTuple]
                    .contains(&(*slot).tts_ops);
            let heap = slot.cast::<pg_sys::HeapTupleTableSlot>();
            if !is_heap || u32::from((*slot).tts_flags) & pg_sys::TTS_FLAG_SHOULDFREE == 0 || (*heap).tuple != new.0 {
                return None;
            }
            if (*slot).tts_nvalid < attribute {
                pg_sys::slot_getsomeattrs(slot, i32::from(attribute));
            }
            let (header, column) = ((*new.0).t_data, usize::try_from(attribute - 1).ok()?);
            let stored = u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK;
            if (*slot).tts_nvalid != attribute || stored as usize <= column || *(*slot).tts_isnull.add(column) {
                return None;
            }
            let end = usize::from((*header).t_hoff) + (*heap).off as usize;
            let place = header.cast::<u8>().add(end - size_of::<i64>()).cast::<i64>();
            let datum = (*slot).tts_values.add(column);
            (place.read_unaligned() == (*datum).value() as i64).then_some((place, datum))
        }
    }
}

impl Tuple {
    /// What a BEFORE trigger returns.
    pub fn datum(self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0)
    }

    /// The command of this transaction that made the row version, or nothing if the transaction found it.
    pub fn made_by(self) -> Option<u32> {
        // SAFETY: a stored tuple has a full header; HeapTupleHeaderGetCmin is for own tuples only, as checked.
        unsafe {
            let header = (*self.0).t_data;
            // Who is known to have committed is another one. So a frozen row version is marked too: it keeps its old id, whose 32
            // bits come again.
            if u32::from((*header).t_infomask) & pg_sys::HEAP_XMIN_COMMITTED != 0 {
                return None;
            }
            let own = pg_sys::TransactionIdIsCurrentTransactionId((*header).t_choice.t_heap.t_xmin);
            own.then(|| pg_sys::HeapTupleHeaderGetCmin(header))
        }
    }

    /// Whether the row version came from an UPDATE.
    pub fn is_updated(self) -> bool {
        // SAFETY: a stored tuple has a full header.
        unsafe { u32::from((*(*self.0).t_data).t_infomask) & pg_sys::HEAP_UPDATED != 0 }
    }
}

/// Whether two values have the same bytes: not the type's `=`, which calls 1.0 and 1.00 equal.
pub fn same_bytes(storage: Storage, a: Option<pg_sys::Datum>, b: Option<pg_sys::Datum>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if storage.by_value => a.value() == b.value(),
        (Some(a), Some(b)) => {
            if storage.length == -1 {
                // SAFETY: both are live varlenas; an unchanged TOAST pointer is equal without being fetched.
                let (a, b) = unsafe { (raw_varlena(a), raw_varlena(b)) };
                if a == b {
                    return true;
                }
            }
            let (mut left, mut right) = (Vec::new(), Vec::new());
            image::encode(&mut left, 0, storage, Some(a));
            image::encode(&mut right, 0, storage, Some(b));
            left == right
        }
        _ => false,
    }
}

/// # Safety
///
/// `datum` is a live varlena.
unsafe fn raw_varlena<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        std::slice::from_raw_parts(pointer.cast::<u8>(), pgrx::varlena::varsize_any(pointer))
    }
}

/// Inserts rows into an internal table and its indexes, unless the table is gone; no trigger fires.
pub fn insert<const N: usize>(table: pg_sys::Oid, rows: impl IntoIterator<Item = [pg_sys::Datum; N]>) {
    let mut nulls = [false; N];
    // SAFETY: the table has N columns of the values' types, plain indexes, and is closed here.
    unsafe {
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let rel = pg_sys::try_table_open(table, lock);
        if rel.is_null() {
            return;
        }
        let indexes = pg_sys::CatalogOpenIndexes(rel);
        for mut values in rows {
            let tuple = pg_sys::heap_form_tuple((*rel).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsertWithInfo(rel, tuple, indexes);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::table_close(rel, lock);
    }
}

/// A `bytea` datum in the current memory context.
pub fn bytea(bytes: &[u8]) -> pg_sys::Datum {
    super::function::text_datum(bytes)
}
