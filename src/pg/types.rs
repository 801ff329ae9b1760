//! Types: their names and the operators of their default ordering.

use std::ffi::CStr;

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::filter::Comparison;

use super::relation::Attribute;
use crate::error::Result;

/// OIDs below it are of what every database has.
const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

/// A type's name, as messages show it.
pub fn name(typid: pg_sys::Oid) -> String {
    // SAFETY: format_type_be returns a palloc'd C string for any OID.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(typid)) }.to_string_lossy().into_owned()
}

/// A type's name with its schema, as SQL takes it under any search path.
pub fn full_name(typid: pg_sys::Oid) -> String {
    // SAFETY: format_type_be_qualified returns a palloc'd C string for any OID.
    unsafe { CStr::from_ptr(pg_sys::format_type_be_qualified(typid)) }.to_string_lossy().into_owned()
}

/// The type that a domain is made of; any other is its own.
pub fn base(typid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::getBaseType(typid) }
}

/// A column's name as the operators of its base type take it: those of enums take no domain.
pub fn column(attribute: &Attribute) -> String {
    let (name, base) = (super::relation::quoted(&attribute.name), base(attribute.storage.typid));
    // SAFETY: a syscache look-up.
    let is_domain = base != attribute.storage.typid && unsafe { pg_sys::type_is_enum(base) };
    if is_domain { format!("{name}::{}", full_name(base)) } else { name }
}

/// The type of arrays of a type.
pub fn array_of(typid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up.
    let array = unsafe { pg_sys::get_array_type(typid) };
    (array != pg_sys::InvalidOid).then_some(array)
}

/// The operator of a key's column, as SQL: its type has an ordering, as the key has an index.
pub fn key_operator(typid: pg_sys::Oid, comparison: Comparison) -> Result<String> {
    operator_of(typid, comparison)
}

/// Whether values that are equal are always written alike.
pub fn equal_is_identical(typid: pg_sys::Oid, collation: pg_sys::Oid) -> bool {
    use pg_sys::{
        BOOLOID, BYTEAOID, DATEOID, INT2OID, INT4OID, INT8OID, OIDOID, TIMESTAMPOID, TIMESTAMPTZOID, UUIDOID,
    };
    match typid {
        BOOLOID | INT2OID | INT4OID | INT8OID | OIDOID | UUIDOID | DATEOID | TIMESTAMPOID | TIMESTAMPTZOID
        | BYTEAOID => true,
        // SAFETY: a syscache look-up for the collation of a column.
        pg_sys::TEXTOID | pg_sys::VARCHAROID => unsafe { pg_sys::get_collation_isdeterministic(collation) },
        // SAFETY: a syscache look-up.
        _ => unsafe { pg_sys::type_is_enum(typid) },
    }
}

/// The operator of the type's default ordering (or hashing), as SQL.
pub fn operator(typid: pg_sys::Oid, comparison: Comparison) -> Result<String> {
    // SAFETY: a syscache look-up.
    if unsafe { pg_sys::type_is_rowtype(typid) } {
        return Err(incomparable(typid));
    }
    operator_of(typid, comparison)
}

fn incomparable(typid: pg_sys::Oid) -> Error {
    Error::rule("42883", format!("values of type {} cannot be compared so", name(typid)))
}

fn operator_of(typid: pg_sys::Oid, comparison: Comparison) -> Result<String> {
    // SAFETY: type cache and syscache look-ups; names are palloc'd C strings or null.
    unsafe {
        let flags = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR;
        let entry = &*pg_sys::lookup_type_cache(typid, flags as i32);
        let member = |strategy: u32| {
            let (family, input) = (entry.btree_opf, entry.btree_opintype);
            if family == pg_sys::InvalidOid {
                return pg_sys::InvalidOid;
            }
            pg_sys::get_opfamily_member(family, input, input, strategy as i16)
        };
        let found = match comparison {
            Comparison::Eq | Comparison::Ne => entry.eq_opr,
            Comparison::Lt => entry.lt_opr,
            Comparison::Gt => entry.gt_opr,
            Comparison::Le => member(pg_sys::BTLessEqualStrategyNumber),
            Comparison::Ge => member(pg_sys::BTGreaterEqualStrategyNumber),
        };
        if found == pg_sys::InvalidOid {
            return Err(incomparable(typid));
        }
        let name = CStr::from_ptr(pg_sys::get_opname(found)).to_string_lossy().into_owned();
        let function = pg_sys::get_opcode(found);
        let schema = CStr::from_ptr(pg_sys::get_namespace_name(pg_sys::get_func_namespace(function)));
        Ok(format!("OPERATOR({}.{name})", super::relation::quoted(&schema.to_string_lossy())))
    }
}

/// Types whose texts depend on no setting, and whose values are written and compared without an error: but for one that does
/// not fit into memory.
const PLAIN: [pg_sys::Oid; 14] = [
    pg_sys::DATEOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::JSONOID,
    pg_sys::JSONBOID,
    pg_sys::BOOLOID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::NUMERICOID,
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::BPCHAROID,
    pg_sys::UUIDOID,
];

/// Collations that no comparison refuses.
const PLAIN_COLLATIONS: [pg_sys::Oid; 3] = [pg_sys::InvalidOid, pg_sys::DEFAULT_COLLATION_OID, pg_sys::C_COLLATION_OID];

/// Whether values of a column are written as the same text under all settings, and without an error.
pub fn is_plain(column: &Attribute) -> bool {
    PLAIN.contains(&column.storage.typid)
}

/// Whether they are compared without an error too.
pub fn is_safe(column: &Attribute) -> bool {
    is_plain(column) && PLAIN_COLLATIONS.contains(&column.collation)
}

/// Whether everything that reads values of a type, compares them or writes them as JSON is compiled code: nothing of it runs
/// queries.
pub fn is_native(typid: pg_sys::Oid) -> bool {
    let base = base(typid);
    if base.to_u32() < FIRST_NORMAL_OBJECT_ID {
        return true;
    }
    // SAFETY: syscache look-ups; InvalidOid for what a type is not. The descriptor is a copy.
    unsafe {
        let parts =
            [pg_sys::get_element_type(base), pg_sys::get_multirange_range(base), pg_sys::get_range_subtype(base)];
        if let Some(&part) = parts.iter().find(|&&part| part != pg_sys::InvalidOid) {
            return is_native(part);
        }
        if pg_sys::type_is_rowtype(base) {
            let attributes = super::relation::attributes(pg_sys::lookup_rowtype_tupdesc_copy(base, -1));
            return attributes.iter().all(|attribute| is_native(attribute.storage.typid));
        }
        if json_cast(base).is_some_and(|function| !is_compiled(function)) {
            return false;
        }
        if pg_sys::type_is_enum(base) {
            return true;
        }
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(base, &mut output, &mut varlena);
        let flags = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR;
        let entry = &*pg_sys::lookup_type_cache(base, flags as i32);
        let operators = [entry.eq_opr, entry.lt_opr, entry.gt_opr].into_iter().filter(|&o| o != pg_sys::InvalidOid);
        operators.map(|operator| pg_sys::get_opcode(operator)).chain([output]).all(is_compiled)
    }
}

/// Whether a function is compiled into the server or a library.
fn is_compiled(function: pg_sys::Oid) -> bool {
    // Rows of pg_language that every database has: internal and c.
    const COMPILED: [u32; 2] = [12, 13];
    let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
    // SAFETY: a syscache look-up, released behind its last use.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return false;
        }
        let language = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).prolang;
        pg_sys::ReleaseSysCache(tuple);
        COMPILED.contains(&language.to_u32())
    }
}

/// The function of a cast to JSON: `to_jsonb` honours those that users' types have.
pub fn json_cast(typid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let mut function = pg_sys::InvalidOid;
    if typid.to_u32() < FIRST_NORMAL_OBJECT_ID {
        return None;
    }
    // SAFETY: a catalog look-up.
    let path = unsafe {
        pg_sys::find_coercion_pathway(pg_sys::JSONOID, typid, pg_sys::CoercionContext::COERCION_EXPLICIT, &mut function)
    };
    (path == pg_sys::CoercionPathType::COERCION_PATH_FUNC).then_some(function)
}
