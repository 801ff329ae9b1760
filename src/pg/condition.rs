//! Conditions on rows outside of queries: SQL over one table's columns, compiled once and evaluated natively.

use std::ffi::{CStr, CString};

use pgrx::{pg_guard, pg_sys};

use super::relation::{self, Attribute};
use super::spi::Param;

/// A compiled condition. It lives in the memory context that it was compiled in.
pub struct Condition {
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Condition {
    /// Compiles SQL over a table, whose alias in it is `t`, with its values from `$1` on. The table needs no lock: only its
    /// definition is read.
    pub fn compile(table: pg_sys::Oid, sql: &str, params: &[Param]) -> Self {
        let text = CString::new(format!("SELECT {sql}")).unwrap_or_default();
        // SAFETY: the table is open until its definition has been copied; the parser gives one SELECT with one
        // expression for this text, and Postgres' own functions turn that into an executable expression.
        unsafe {
            let rel = pg_sys::RelationIdGetRelation(table);
            assert!(!rel.is_null(), "the table of a condition exists");
            let descriptor = pg_sys::CreateTupleDescCopy((*rel).rd_att);
            pg_sys::RelationClose(rel);
            let state = pg_sys::make_parsestate(std::ptr::null_mut());
            // An entry in a range table, as a query has, would be one of a relation that is locked.
            (*state).p_pre_columnref_hook = Some(column);
            (*state).p_paramref_hook = Some(constant);
            let mut names = Names { columns: relation::attributes(descriptor), params };
            (*state).p_ref_hook_state = (&raw mut names).cast();
            let trees = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
            let tree = (*(*(*trees).elements).ptr_value.cast::<pg_sys::RawStmt>()).stmt.cast::<pg_sys::SelectStmt>();
            let target = (*(*(*tree).targetList).elements).ptr_value.cast::<pg_sys::ResTarget>();
            let kind = pg_sys::ParseExprKind::EXPR_KIND_WHERE;
            let expression = pg_sys::transformExpr(state, (*target).val, kind);
            let expression = pg_sys::coerce_to_boolean(state, expression, c"WHERE".as_ptr());
            pg_sys::assign_expr_collations(state, expression);
            pg_sys::free_parsestate(state);
            let executor = pg_sys::CreateExecutorState();
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            // It holds a row from here on, whose columns `holds` sets.
            pg_sys::ExecStoreVirtualTuple(slot);
            let state = pg_sys::ExecPrepareExpr(expression.cast(), executor);
            let context = pg_sys::MakePerTupleExprContext(executor);
            (*context).ecxt_scantuple = slot;
            Self { state, context, slot }
        }
    }

    /// Whether it is true of a row with these columns, by attribute number; the others are not read.
    pub fn holds(&self, columns: impl IntoIterator<Item = (i16, Option<pg_sys::Datum>)>) -> bool {
        // SAFETY: the slot's arrays have as many members as its descriptor; what evaluation allocates is freed here.
        unsafe {
            let width = usize::try_from((*(*self.slot).tts_tupleDescriptor).natts).unwrap_or(0);
            let values = std::slice::from_raw_parts_mut((*self.slot).tts_values, width);
            let nulls = std::slice::from_raw_parts_mut((*self.slot).tts_isnull, width);
            nulls.fill(true);
            for (number, value) in columns {
                let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
                if let (Some(datum), true) = (value, place < width) {
                    values[place] = datum;
                    nulls[place] = false;
                }
            }
            let mut null = false;
            let result = pg_sys::ExecEvalExprSwitchContext(self.state, self.context, &mut null);
            let holds = !null && result.value() & 0xff != 0;
            let memory = (*self.context).ecxt_per_tuple_memory;
            if !(*memory).isReset || !(*memory).firstchild.is_null() {
                pg_sys::MemoryContextReset(memory);
            }
            holds
        }
    }
}

/// What names in a condition mean.
struct Names<'a> {
    columns: Vec<Attribute>,
    params: &'a [Param],
}

/// `t.name` as the column that it stands for.
#[pg_guard]
unsafe extern "C-unwind" fn column(
    state: *mut pg_sys::ParseState,
    reference: *mut pg_sys::ColumnRef,
) -> *mut pg_sys::Node {
    // SAFETY: `compile` set the state's reference to its names, which live until it returns. Fields are strings, as there is
    // no `*` in a condition.
    unsafe {
        let names = &*(*state).p_ref_hook_state.cast::<Names<'_>>();
        let Some(last) = super::list_members((*reference).fields).last() else { return std::ptr::null_mut() };
        let name = CStr::from_ptr((*last.ptr_value.cast::<pg_sys::String>()).sval);
        match names.columns.iter().find(|column| column.name.as_bytes() == name.to_bytes()) {
            Some(found) => {
                pg_sys::makeVar(1, found.number, found.storage.typid, found.typmod, found.collation, 0).cast()
            }
            None => std::ptr::null_mut(),
        }
    }
}

/// `$n` as the constant that it stands for.
#[pg_guard]
unsafe extern "C-unwind" fn constant(
    state: *mut pg_sys::ParseState,
    reference: *mut pg_sys::ParamRef,
) -> *mut pg_sys::Node {
    // SAFETY: `compile` set the state's reference to its names, which live until it returns.
    unsafe {
        let params = (*(*state).p_ref_hook_state.cast::<Names<'_>>()).params;
        let place = usize::try_from((*reference).number - 1).unwrap_or(usize::MAX);
        let Some(param) = params.get(place) else { return std::ptr::null_mut() };
        let (mut length, mut by_value) = (0i16, false);
        pg_sys::get_typlenbyval(param.typid, &mut length, &mut by_value);
        let constant = pg_sys::makeConst(
            param.typid,
            -1,
            pg_sys::get_typcollation(param.typid),
            i32::from(length),
            param.value.unwrap_or(pg_sys::Datum::from(0usize)),
            param.value.is_none(),
            by_value,
        );
        constant.cast()
    }
}
