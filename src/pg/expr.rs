//! The same condition that a query has in its WHERE, evaluated on values that stand in no table.

use std::ffi::CString;

use pgrx::pg_sys;

use super::spi::Param;

/// A condition over the columns of one relation. It lives in the memory context that it was made in.
pub struct Condition {
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    width: usize,
}

impl Condition {
    /// Compiles the WHERE of `SELECT FROM table AS t WHERE …`, analysed as the query itself will be.
    pub fn new(relation: pg_sys::Oid, sql: &str, params: &[Param]) -> Self {
        let text = CString::new(sql).unwrap_or_default();
        let types: Vec<pg_sys::Oid> = params.iter().map(|param| param.typid).collect();
        let count = i32::try_from(params.len()).unwrap_or(i32::MAX);
        // SAFETY: parser, planner and executor are called in their usual order on one well-formed
        // SELECT; the descriptor is copied, so that nothing points into the closed relation.
        unsafe {
            let statements = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
            let statement = (*(*statements).elements).ptr_value.cast();
            let query = pg_sys::parse_analyze_fixedparams(
                statement,
                text.as_ptr(),
                types.as_ptr(),
                count,
                std::ptr::null_mut(),
            );
            let condition = pg_sys::expression_planner((*(*query).jointree).quals.cast());
            let list = pg_sys::makeParamList(count);
            for (slot, param) in (*list).params.as_mut_slice(params.len()).iter_mut().zip(params) {
                slot.value = param.value.unwrap_or(pg_sys::Datum::from(0usize));
                slot.isnull = param.value.is_none();
                slot.pflags = pg_sys::PARAM_FLAG_CONST as u16;
                slot.ptype = param.typid;
            }
            let estate = pg_sys::CreateExecutorState();
            (*estate).es_param_list_info = list;
            let context = pg_sys::CreateExprContext(estate);
            let state = pg_sys::ExecPrepareQual(pg_sys::make_ands_implicit(condition), estate);
            let rel = pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let descriptor = pg_sys::CreateTupleDescCopy((*rel).rd_att);
            pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            Self { state, context, slot, width: (*descriptor).natts as usize }
        }
    }

    /// Whether the condition is true for a row with these values; columns not given are NULL.
    pub fn holds(&mut self, values: impl IntoIterator<Item = (i16, Option<pg_sys::Datum>)>) -> bool {
        // SAFETY: the slot's arrays have `width` members; attribute numbers outside are ignored.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            let datums = std::slice::from_raw_parts_mut((*self.slot).tts_values, self.width);
            let nulls = std::slice::from_raw_parts_mut((*self.slot).tts_isnull, self.width);
            nulls.fill(true);
            for (number, value) in values {
                let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
                if let (Some(datum), true) = (value, place < self.width) {
                    datums[place] = datum;
                    nulls[place] = false;
                }
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
            (*self.context).ecxt_scantuple = self.slot;
            let holds = pg_sys::ExecQual(self.state, self.context);
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            holds
        }
    }
}
