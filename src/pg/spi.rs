//! Read-only queries under the caller's active snapshot, row by row.
//!
//! pgrx's `Spi` takes a fresh snapshot and a command id as soon as the transaction may write; here one
//! snapshot per call is what keeps a delta exact, and a standby assigns no transaction ids.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::ephemeral::Ephemeral;
use super::rights;

/// A bound value.
#[derive(Clone, Copy)]
pub struct Param {
    /// Its type.
    pub typid: pg_sys::Oid,
    /// Its value, or nothing for NULL.
    pub value: Option<pg_sys::Datum>,
}

impl Param {
    /// A `bigint`.
    pub fn int8(value: i64) -> Self {
        Self { typid: pg_sys::INT8OID, value: Some(pg_sys::Datum::from(value)) }
    }

    /// An `oid`.
    pub fn oid(value: pg_sys::Oid) -> Self {
        Self { typid: pg_sys::OIDOID, value: Some(pg_sys::Datum::from(value)) }
    }

    /// A `tid[]` in the current memory context.
    pub fn places(values: &[pg_sys::ItemPointerData]) -> Self {
        let mut values: Vec<_> = values.iter().map(|place| pg_sys::Datum::from(&raw const *place)).collect();
        let (length, align) = (size_of::<pg_sys::ItemPointerData>() as i32, b's' as std::ffi::c_char);
        // SAFETY: the values are of that type, whose form this is; the array has copies of them.
        let array = unsafe {
            let count = i32::try_from(values.len()).unwrap_or(i32::MAX);
            pg_sys::construct_array(values.as_mut_ptr(), count, pg_sys::TIDOID, length, false, align)
        };
        Self { typid: pg_sys::TIDARRAYOID, value: Some(pg_sys::Datum::from(array)) }
    }

    /// A `bigint[]` in the current memory context.
    pub fn int8_array(values: &[i64]) -> Self {
        Self { typid: pg_sys::INT8ARRAYOID, value: pgrx::IntoDatum::into_datum(values.to_vec()) }
    }
}

/// One row of a result, alive until the receiver returns.
pub struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Row<'a> {
    /// As many values as flags that they are NULL.
    pub fn new(values: &'a [pg_sys::Datum], nulls: &'a [bool]) -> Self {
        Self { values, nulls }
    }

    /// The column's datum, or nothing for NULL.
    pub fn get(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column]).then(|| self.values[column])
    }

    /// Whether a `boolean` column is true.
    pub fn bool(&self, column: usize) -> bool {
        self.get(column).is_some_and(|datum| datum.value() & 0xff != 0)
    }

    /// An `oid` column that is not NULL.
    pub fn oid(&self, column: usize) -> pg_sys::Oid {
        self.get(column).map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(datum.value() as u32))
    }

    /// A `bigint` (or `xid8`) column that is not NULL.
    pub fn int8(&self, column: usize) -> i64 {
        self.get(column).map_or(0, |datum| datum.value() as i64)
    }
}

/// A destination that hands every tuple to a closure.
#[repr(C)]
struct Receiver<'a> {
    base: pg_sys::DestReceiver,
    each: &'a mut dyn FnMut(&Row<'_>) -> bool,
    memory: PgMemoryContexts,
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, dest: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: `query` registered this function in a Receiver that outlives the execution; the executor
    // passes a filled slot, whose arrays have as many members as its descriptor.
    unsafe {
        let receiver = &mut *dest.cast::<Receiver<'_>>();
        let width = (*(*slot).tts_tupleDescriptor).natts;
        // A call out of Rust costs as much as writing a short value.
        if i32::from((*slot).tts_nvalid) < width {
            pg_sys::slot_getallattrs(slot);
        }
        let width = usize::try_from(width).unwrap_or(0);
        let row = Row {
            values: std::slice::from_raw_parts((*slot).tts_values, width),
            nulls: std::slice::from_raw_parts((*slot).tts_isnull, width),
        };
        let each = &mut receiver.each;
        let go_on = receiver.memory.switch_to(|_| each(&row));
        if !(*receiver.memory.value()).isReset {
            receiver.memory.reset();
        }
        go_on
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(_dest: *mut pg_sys::DestReceiver, _operation: i32, _descriptor: pg_sys::TupleDesc) {
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_dest: *mut pg_sys::DestReceiver) {}

/// The most bytes of plans that a backend keeps. Filters are bound by parameters, so that the texts are few; that
/// of a nested shape takes 50 to 100 kB.
const MAX_KEPT: usize = 4 << 20;

/// Text, types of the parameters, whether tables are read as their owners read them, and when it is planned.
type PlanKey = (String, Vec<pg_sys::Oid>, bool, Planned);

/// The plans that a backend keeps.
#[derive(Default)]
struct Kept {
    plans: HashMap<PlanKey, pg_sys::SPIPlanPtr>,
    bytes: usize,
}

/// What a plan takes.
///
/// # Safety
///
/// It is a live plan.
unsafe fn size(plan: pg_sys::SPIPlanPtr) -> usize {
    // SAFETY: the caller's promise; each of its sources owns its context, with that of the analysed query below.
    unsafe {
        let sources = pgrx::PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        sources.iter_ptr().map(|source| pg_sys::MemoryContextMemAllocated((*source).context, true)).sum()
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
    /// Queries under way: a value's output may call a function that pulls.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Counts a query while it runs.
struct Running;

impl Running {
    fn new() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Runs one SELECT read-only under the active snapshot and passes its rows to `each`, until that
/// returns false. What `each` allocates from Postgres is freed after each row.
///
/// It is planned once, whatever the values.
pub fn query(sql: &str, params: &[Param], each: &mut dyn FnMut(&Row<'_>) -> bool) {
    Query { sql, params, relations: &[], is_ours: false }.run_planned_once(each);
}

/// When a query is planned.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Planned {
    /// For the values of each call: whether an index serves depends on them.
    EachTime,
    /// Once for all values.
    Once,
}

/// A SELECT and all that it runs with.
pub struct Query<'a> {
    /// Its text.
    pub sql: &'a str,
    /// Its parameters.
    pub params: &'a [Param],
    /// Relations of this call that it reads.
    pub relations: &'a [&'a Ephemeral],
    /// Whether privileges and row security were checked by us and are part of the conditions: tables are then
    /// read as their owner reads them, while functions still run with the caller's rights ([`rights`]).
    pub is_ours: bool,
}

impl Query<'_> {
    /// The varlenas in the one row that a query gives, in the current memory context.
    pub fn varlenas<const N: usize>(&self) -> [Option<pg_sys::Datum>; N] {
        let context = PgMemoryContexts::CurrentMemoryContext.value();
        let mut values = [None; N];
        self.run(&mut |row| {
            // SAFETY: the datum is a live varlena; the caller's context outlives the query.
            let copy = |datum: pg_sys::Datum| unsafe {
                PgMemoryContexts::For(context).switch_to(|_| pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr()).into())
            };
            values = std::array::from_fn(|column| row.get(column).map(copy));
            false
        });
        values
    }

    /// Runs it read-only under the active snapshot and passes its rows to `each`, until that returns false. What
    /// `each` allocates from Postgres is freed after each row.
    pub fn run(&self, each: &mut dyn FnMut(&Row<'_>) -> bool) {
        self.execute(Planned::EachTime, each);
    }

    /// The same by a plan that serves whatever the values are.
    pub fn run_planned_once(&self, each: &mut dyn FnMut(&Row<'_>) -> bool) {
        self.execute(Planned::Once, each);
    }

    fn execute(&self, planned: Planned, each: &mut dyn FnMut(&Row<'_>) -> bool) {
        let _running = Running::new();
        let mut receiver = Receiver {
            base: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(startup),
                rShutdown: Some(shutdown),
                rDestroy: Some(shutdown),
                mydest: pg_sys::CommandDest::DestNone,
            },
            each,
            memory: PgMemoryContexts::new("syncline row"),
        };
        // SAFETY: SPI is connected and finished in pairs (an error unwinds it with the transaction); all
        // pointers passed live until SPI_finish; the parameter list has room for `params.len()` members.
        unsafe {
            pg_sys::SPI_connect();
            for relation in self.relations {
                relation.register();
            }
            let plan = self.plan(planned);
            let list = pg_sys::makeParamList(i32::try_from(self.params.len()).unwrap_or(i32::MAX));
            for (slot, param) in (*list).params.as_mut_slice(self.params.len()).iter_mut().zip(self.params) {
                slot.value = param.value.unwrap_or(pg_sys::Datum::from(0usize));
                slot.isnull = param.value.is_none();
                slot.pflags = pg_sys::PARAM_FLAG_CONST as u16;
                slot.ptype = param.typid;
            }
            let options = pg_sys::SPIExecuteOptions {
                params: list,
                read_only: true,
                allow_nonatomic: false,
                must_return_tuples: true,
                tcount: 0,
                dest: (&raw mut receiver).cast(),
                owner: std::ptr::null_mut(),
            };
            // Changed definitions have the kept text analysed again.
            let text = rights::source_text(plan);
            let result =
                rights::trusting(self.is_ours.then_some(text), || pg_sys::SPI_execute_plan_extended(plan, &options));
            assert!(result >= 0, "a generated query could not be executed: {result}");
            pg_sys::SPI_finish();
        }
    }

    /// The analysed query, kept for the life of the backend; Postgres itself analyses it again after changes of
    /// definitions.
    ///
    /// # Safety
    ///
    /// SPI is connected.
    unsafe fn plan(&self, planned: Planned) -> pg_sys::SPIPlanPtr {
        let types: Vec<pg_sys::Oid> = self.params.iter().map(|param| param.typid).collect();
        let key = (self.sql.to_owned(), types, self.is_ours, planned);
        if let Some(plan) = KEPT.with_borrow(|kept| kept.plans.get(&key).copied()) {
            return plan;
        }
        let text = CString::new(self.sql).unwrap_or_default();
        let count = i32::try_from(key.1.len()).unwrap_or(i32::MAX);
        // SAFETY: the caller's promise; text and types live until the call returns; only kept plans are freed.
        unsafe {
            let options = match planned {
                Planned::EachTime => pg_sys::CURSOR_OPT_CUSTOM_PLAN as i32,
                Planned::Once => pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
            };
            let plan = rights::trusting(self.is_ours.then_some(text.as_ptr()), || {
                pg_sys::SPI_prepare_cursor(text.as_ptr(), count, key.1.as_ptr().cast_mut(), options)
            });
            assert!(!plan.is_null(), "a generated query is one that SPI can prepare");
            let bytes = size(plan);
            let is_full = KEPT.with_borrow(|kept| kept.bytes + bytes > MAX_KEPT);
            if is_full && DEPTH.get() > 1 {
                // One of the kept plans is running: this one lives until SPI_finish instead.
                return plan;
            }
            assert_eq!(pg_sys::SPI_keepplan(plan), 0, "a new plan can be kept");
            let full = KEPT.with_borrow_mut(|kept| {
                let full = if is_full { std::mem::take(kept) } else { Kept::default() };
                kept.plans.insert(key, plan);
                kept.bytes += bytes;
                full
            });
            for old in full.plans.into_values() {
                pg_sys::SPI_freeplan(old);
            }
            plan
        }
    }
}
