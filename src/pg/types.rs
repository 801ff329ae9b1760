//! Types: their names and the operators of their default ordering.

use std::ffi::CStr;

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::filter::Comparison;

use super::relation::Attribute;
use crate::error::Result;

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
