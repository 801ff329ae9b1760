//! Rows by a table's own index, without a query: starting one takes longer than finding that nothing is new.

use pgrx::pg_sys;

use super::memory::Scratch;
use super::relation;
use super::spi::Row;

/// A comparison of a column with a value.
#[derive(Clone, Copy)]
pub struct Key {
    column: i16,
    strategy: u32,
    function: u32,
    value: pg_sys::Datum,
    /// `SK_SEARCHARRAY`, if the value is an array and any of its members will do: only an index can tell that.
    flags: u32,
}

/// Values of `bigint` and `xid8` are 64-bit words both.
impl Key {
    fn new(column: i16, strategy: u32, function: u32, value: pg_sys::Datum) -> Self {
        Self { column, strategy, function, value, flags: 0 }
    }

    /// An `oid` column is this one.
    pub fn oid(column: i16, value: pg_sys::Oid) -> Self {
        Self::new(column, pg_sys::BTEqualStrategyNumber, pg_sys::F_OIDEQ, value.into())
    }

    /// An `oid` column that an index leads with is one of these. The array is made in the current memory context.
    pub fn one_of(column: i16, values: &[pg_sys::Oid]) -> Self {
        let array = pgrx::IntoDatum::into_datum(values.to_vec()).unwrap_or(pg_sys::Datum::from(0usize));
        let key = Self::new(column, pg_sys::BTEqualStrategyNumber, pg_sys::F_OIDEQ, array);
        Self { flags: pg_sys::SK_SEARCHARRAY, ..key }
    }

    /// A `bigint` column is not below this.
    pub fn int8_from(column: i16, value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX).into();
        Self::new(column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, value)
    }

    /// A `bigint` column is below this.
    pub fn int8_below(column: i16, value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX).into();
        Self::new(column, pg_sys::BTLessStrategyNumber, pg_sys::F_INT8LT, value)
    }

    /// A `bigint` column is this.
    pub fn int8(column: i16, value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX).into();
        Self::new(column, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, value)
    }

    /// A `bigint` column is above this.
    pub fn int8_above(column: i16, value: i64) -> Self {
        let value = value.into();
        Self::new(column, pg_sys::BTGreaterStrategyNumber, pg_sys::F_INT8GT, value)
    }

    /// An `xid8` column is not below this.
    pub fn xid8_from(column: i16, value: u64) -> Self {
        let value = pg_sys::Datum::from(value);
        Self::new(column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_XID8GE, value)
    }

    /// An `xid8` column is this.
    pub fn xid8(column: i16, value: u64) -> Self {
        Self::new(column, pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, pg_sys::Datum::from(value))
    }
}

/// Whether there is such a row.
pub fn has(table: pg_sys::Oid, keys: &[Key]) -> bool {
    let mut found = false;
    rows(table, keys, &mut |_| {
        found = true;
        false
    });
    found
}

/// Passes the rows of a table, none of its partitions', to `each` until that returns false: those that the active snapshot sees and all
/// keys hold for. A row has all columns, by number from 1, in the places from 0. What `each` allocates from Postgres is freed after
/// each row.
///
/// An index that begins with the keys' columns gives them in its order; without one the table is read.
pub fn rows(table: pg_sys::Oid, keys: &[Key], each: &mut dyn FnMut(&Row<'_>) -> bool) {
    let mut row = None;
    tuples(table, keys, &mut |tuple, descriptor| {
        // SAFETY: the tuple is of the descriptor's relation; the arrays have room for all columns.
        unsafe {
            let width = usize::try_from((*descriptor).natts).unwrap_or(0);
            // Mostly there is none.
            let (values, nulls, memory) = row
                .get_or_insert_with(|| (vec![pg_sys::Datum::from(0usize); width], vec![true; width], Scratch::new()));
            pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            memory.run(|| each(&Row::new(values, nulls)))
        }
    });
}

/// Where such rows are. They stay there as long as the snapshot is active; nothing if there are more than `most`.
pub fn places(table: pg_sys::Oid, keys: &[Key], most: usize) -> Option<Vec<pg_sys::ItemPointerData>> {
    let mut places = Vec::new();
    tuples(table, keys, &mut |tuple, _| {
        // SAFETY: the tuple is live.
        places.push(unsafe { (*tuple).t_self });
        places.len() <= most
    });
    (places.len() <= most).then_some(places)
}

/// A tuple lives until the next one is fetched.
fn tuples(table: pg_sys::Oid, keys: &[Key], each: &mut dyn FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc) -> bool) {
    // SAFETY: what is opened is closed below, or by Postgres when an error ends the transaction.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let rel = pg_sys::table_open(table, lock);
        let mut scan_keys: Vec<pg_sys::ScanKeyData> = Vec::with_capacity(keys.len());
        for key in keys {
            let mut scan_key = pg_sys::ScanKeyData::default();
            let strategy = key.strategy as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&mut scan_key, key.column, strategy, key.function.into(), key.value);
            scan_key.sk_flags |= key.flags as i32;
            scan_keys.push(scan_key);
        }
        let mut columns = [0; relation::MAX_COLUMNS];
        // One column may be compared twice.
        let numbers = keys.chunk_by(|one, other| one.column == other.column).map(|keys| keys[0].column);
        columns.iter_mut().zip(numbers).for_each(|(column, number)| *column = number);
        let index = if keys.is_empty() { None } else { relation::index_on(rel, columns) };
        assert!(index.is_some() || keys.iter().all(|key| key.flags == 0), "an index leads with the column");
        let scan = pg_sys::systable_beginscan(
            rel,
            index.unwrap_or(pg_sys::InvalidOid),
            index.is_some(),
            pg_sys::GetActiveSnapshot(),
            i32::try_from(keys.len()).unwrap_or(0),
            scan_keys.as_mut_ptr(),
        );
        loop {
            // A cursor may know of a million transactions, each looked up.
            pgrx::check_for_interrupts!();
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() || !each(tuple, (*rel).rd_att) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
