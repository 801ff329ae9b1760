//! Rows to JSON in one pass; the bytes are those of `to_jsonb` under the pinned settings.

use std::ffi::CStr;

use pgrx::pg_sys;
use syncline_delta::{Error, json};

use crate::error::raise;
use crate::pg::relation::{self, Attribute};
use crate::pg::{function, types};

/// The most bytes of a row's JSON: one datum ends at 1 GB, and the key and the name of its relation go with it.
const MAX_ROW: usize = (1 << 30) - (1 << 24);

/// How a value of a type is written.
enum Writer {
    Bool,
    Int2,
    Int4,
    Int8 {
        as_string: bool,
    },
    /// Its output function gives a number.
    Number(pg_sys::Oid),
    /// A text whose bytes are its output.
    Text,
    /// Stored text that is JSON already.
    Json,
    /// Its output function gives JSON.
    Jsonb,
    Date,
    /// The text of the offset from UTC: what TimeZone is pinned to, or nothing.
    Timestamp(&'static str),
    Array {
        element: Box<Writer>,
        length: i16,
        by_value: bool,
        align: i8,
        typid: pg_sys::Oid,
    },
    /// An object of its attributes.
    Composite {
        object: Object,
        descriptor: pg_sys::TupleDesc,
    },
    /// `"char"`, which can be any byte: what is not ASCII in octal, as PostgreSQL 16 and later print it.
    Char,
    /// `bytea`, whose output function ends at 1 GB of hex.
    Bytea,
    /// A string of its output function.
    Output(pg_sys::Oid),
    /// Types with a cast to JSON: what `to_jsonb` makes of them.
    ToJsonb(pg_sys::Oid),
}

/// A member of the JSON object: which result column, under which name.
struct Member {
    column: usize,
    /// With what stands around it.
    name: Vec<u8>,
    writer: Writer,
}

/// A JSON object of some columns of a result.
pub struct Object {
    members: Vec<Member>,
}

impl Object {
    /// The object of these (result column, attribute) pairs: in the order given, or in `jsonb`'s.
    pub fn new<'a>(columns: impl Iterator<Item = (usize, &'a Attribute)>, sorted: bool, int8_as_string: bool) -> Self {
        let mut columns: Vec<_> = columns.collect();
        if sorted {
            columns.sort_by(|a, b| json::member_order(&a.1.name, &b.1.name));
        }
        let members = columns
            .into_iter()
            .map(|(column, attribute)| {
                let mut name = b", ".to_vec();
                json::string(&mut name, attribute.name.as_bytes());
                name.extend_from_slice(b": ");
                Member { column, name, writer: Writer::of(attribute.storage.typid, int8_as_string) }
            })
            .collect();
        Self { members }
    }

    /// Appends the object for one row.
    pub fn write(&self, out: &mut Vec<u8>, value: impl Fn(usize) -> Option<pg_sys::Datum>) {
        self.write_known(out, |_| true, value);
    }

    /// Appends the object for one row, without the members whose columns are not known.
    pub fn write_known(
        &self,
        out: &mut Vec<u8>,
        is_known: impl Fn(usize) -> bool,
        value: impl Fn(usize) -> Option<pg_sys::Datum>,
    ) {
        out.push(b'{');
        for (i, member) in self.members.iter().filter(|member| is_known(member.column)).enumerate() {
            // No comma before the first one.
            out.extend_from_slice(&member.name[if i == 0 { 2 } else { 0 }..]);
            match value(member.column) {
                None => out.extend_from_slice(b"null"),
                Some(datum) => member.writer.write(out, datum),
            }
            check_length(out);
        }
        out.push(b'}');
    }
}

fn check_length(out: &[u8]) {
    if out.len() > MAX_ROW {
        raise(&Error::Limit { what: "the JSON of a row", limit: MAX_ROW });
    }
}

impl Writer {
    fn of(typid: pg_sys::Oid, int8_as_string: bool) -> Self {
        // SAFETY: catalog look-ups for an existing type.
        let (base, output, element) = unsafe {
            let base = pg_sys::getBaseType(typid);
            let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(base, &mut output, &mut varlena);
            (base, output, pg_sys::get_element_type(base))
        };
        match base {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID => Self::Int4,
            pg_sys::INT8OID => Self::Int8 { as_string: int8_as_string },
            pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => Self::Number(output),
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Self::Text,
            pg_sys::JSONOID => Self::Json,
            pg_sys::JSONBOID => Self::Jsonb,
            pg_sys::DATEOID => Self::Date,
            pg_sys::TIMESTAMPOID => Self::Timestamp(""),
            pg_sys::TIMESTAMPTZOID => Self::Timestamp("+00:00"),
            _ if element != pg_sys::InvalidOid => {
                let (mut length, mut by_value, mut align) = (0i16, false, 0);
                // SAFETY: catalog look-up for an existing type.
                unsafe { pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align) };
                let writer = Box::new(Self::of(element, int8_as_string));
                Self::Array { element: writer, length, by_value, align, typid: element }
            }
            pg_sys::CHAROID => Self::Char,
            pg_sys::BYTEAOID => Self::Bytea,
            // SAFETY: a catalog look-up.
            _ if unsafe { pg_sys::type_is_rowtype(base) } => Self::composite(base, int8_as_string),
            _ if types::json_cast(base).is_some() => Self::ToJsonb(base),
            _ => Self::Output(output),
        }
    }

    fn composite(typid: pg_sys::Oid, int8_as_string: bool) -> Self {
        // SAFETY: the type is a composite; the copy of its descriptor lives as long as the memory context of the call.
        let (descriptor, attributes) = unsafe {
            let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(typid, -1);
            (descriptor, relation::attributes(descriptor))
        };
        let place = |a: &Attribute| usize::try_from(a.number - 1).unwrap_or(0);
        let object = Object::new(attributes.iter().map(|a| (place(a), a)), true, int8_as_string);
        Self::Composite { object, descriptor }
    }

    fn write(&self, out: &mut Vec<u8>, datum: pg_sys::Datum) {
        match self {
            Self::Bool => out.extend_from_slice(if datum.value() & 0xff != 0 { b"true" } else { b"false" }),
            Self::Int2 => json::integer(out, i64::from(datum.value() as i16)),
            Self::Int4 => json::integer(out, i64::from(datum.value() as i32)),
            Self::Int8 { as_string: false } => json::integer(out, datum.value() as i64),
            Self::Int8 { as_string: true } => json::string(out, (datum.value() as i64).to_string().as_bytes()),
            Self::Number(output) => with_output(*output, datum, |text| json::number(out, text)),
            Self::Text => with_text(datum, |text| json::string(out, text)),
            // Line ends stand between tokens only, and would end a line of the stream.
            Self::Json => with_text(datum, |text| {
                out.extend(text.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            }),
            Self::Jsonb => {
                with_output(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), datum, |text| out.extend_from_slice(text))
            }
            Self::Date => json::date(out, datum.value() as i32),
            Self::Timestamp(offset) => json::timestamp(out, datum.value() as i64, offset),
            Self::Array { element, length, by_value, align, typid } => {
                // SAFETY: the datum is an array of that element type; its parts are read as arrayfuncs.c does.
                unsafe {
                    let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
                    let rank = usize::try_from((*array).ndim).unwrap_or(0);
                    let extents = array.cast::<u8>().add(size_of::<pg_sys::ArrayType>()).cast::<i32>();
                    let extents = std::slice::from_raw_parts(extents, rank);
                    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
                    pg_sys::deconstruct_array(
                        array,
                        *typid,
                        i32::from(*length),
                        *by_value,
                        *align,
                        &mut values,
                        &mut nulls,
                        &mut count,
                    );
                    let count = usize::try_from(count).unwrap_or(0);
                    if rank == 0 || count == 0 {
                        out.extend_from_slice(b"[]");
                        return;
                    }
                    let values = std::slice::from_raw_parts(values, count);
                    let nulls = std::slice::from_raw_parts(nulls, count);
                    nested(out, element, extents, values, nulls);
                }
            }
            Self::Composite { object, descriptor } => {
                // SAFETY: the datum is a row of that type; it and its parts live until the row has been written.
                let (values, nulls) = unsafe { parts(*descriptor, datum) };
                object.write(out, |column| (!nulls[column]).then(|| values[column]));
            }
            Self::Char => match datum.value() as u8 {
                0 => out.extend_from_slice(b"\"\""),
                byte if byte.is_ascii() => json::string(out, &[byte]),
                byte => json::string(out, format!("\\{byte:o}").as_bytes()),
            },
            Self::Bytea => with_text(datum, |bytes| {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\"\\\\x");
                out.extend(bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]));
                out.push(b'"');
            }),
            Self::Output(output) => with_output(*output, datum, |text| json::string(out, text)),
            Self::ToJsonb(typid) => to_jsonb(out, *typid, datum),
        }
    }
}

/// The attributes of a composite value.
///
/// # Safety
///
/// The datum is a live row of the type that the descriptor describes.
unsafe fn parts(descriptor: pg_sys::TupleDesc, datum: pg_sys::Datum) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    // SAFETY: the caller's promise; heap_deform_tuple fills one place for each attribute.
    unsafe {
        let header = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let length = u32::try_from(pgrx::varlena::varsize_any(header.cast())).unwrap_or(0);
        let mut tuple = pg_sys::HeapTupleData { t_len: length, t_data: header, ..Default::default() };
        let width = usize::try_from((*descriptor).natts).unwrap_or(0);
        let mut values = vec![pg_sys::Datum::from(0usize); width];
        let mut nulls = vec![true; width];
        pg_sys::heap_deform_tuple(&mut tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        (values, nulls)
    }
}

fn nested(out: &mut Vec<u8>, element: &Writer, extents: &[i32], values: &[pg_sys::Datum], nulls: &[bool]) {
    let extent = usize::try_from(extents[0]).unwrap_or(0).max(1);
    let step = values.len() / extent;
    out.push(b'[');
    for i in 0..extent {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        let part = i * step..(i + 1) * step;
        if extents.len() > 1 {
            nested(out, element, &extents[1..], &values[part.clone()], &nulls[part]);
        } else if nulls[i] {
            out.extend_from_slice(b"null");
        } else {
            element.write(out, values[i]);
        }
        // A number of eight bytes can be a text of a hundred thousand.
        check_length(out);
    }
    out.push(b']');
}

fn with_output(output: pg_sys::Oid, datum: pg_sys::Datum, each: impl FnOnce(&[u8])) {
    // SAFETY: the function is the output function of the datum's type; its result is a palloc'd C string.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(output, datum);
        each(CStr::from_ptr(text).to_bytes());
        pg_sys::pfree(text.cast());
    }
}

fn with_text(datum: pg_sys::Datum, each: impl FnOnce(&[u8])) {
    // SAFETY: the datum is a varlena of text; it is made plain or short first and freed if that made a copy.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        let is_plain = !pgrx::varlena::varatt_is_1b_e(pointer) && !pgrx::varlena::varatt_is_4b_c(pointer);
        let plain = if is_plain { pointer } else { pg_sys::pg_detoast_datum_packed(pointer) };
        let data = pgrx::varlena::vardata_any(plain).cast::<u8>();
        each(std::slice::from_raw_parts(data, pgrx::varlena::varsize_any_exhdr(plain)));
        if plain != pointer {
            pg_sys::pfree(plain.cast());
        }
    }
}

fn to_jsonb(out: &mut Vec<u8>, typid: pg_sys::Oid, datum: pg_sys::Datum) {
    let function_oid = pg_sys::Oid::from(pg_sys::F_TO_JSONB);
    // SAFETY: to_jsonb(anyelement) learns its argument's type from the call expression, built here from a
    // NULL constant of that type.
    let jsonb = unsafe {
        let (mut length, mut by_value, mut align) = (0i16, false, 0);
        pg_sys::get_typlenbyvalalign(typid, &mut length, &mut by_value, &mut align);
        let argument = pg_sys::makeNullConst(typid, -1, pg_sys::InvalidOid);
        let arguments = pg_sys::lappend(std::ptr::null_mut(), argument.cast());
        let call = pg_sys::makeFuncExpr(
            function_oid,
            pg_sys::JSONBOID,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        let mut info = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(function_oid, &mut info);
        info.fn_expr = call.cast();
        pg_sys::FunctionCall1Coll(&mut info, pg_sys::InvalidOid, datum)
    };
    out.extend_from_slice(function::output(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), jsonb).as_bytes());
}
