//! How the log keeps old values: binary, self-describing, by the attribute numbers of the tracked table.
//!
//! Per column: attribute number, type, length and one more (0 for NULL), then the value's bytes, detoasted; of one that is passed by
//! value those that tell it. A reader takes a value only if its type is still the column's.

use pgrx::pg_sys;
use syncline_delta::varint;

/// How values of a type are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The type.
    pub typid: pg_sys::Oid,
    /// `typlen`: positive, -1 for varlena, -2 for a C string.
    pub length: i16,
    /// Passed by value.
    pub by_value: bool,
}

/// Appends one column.
pub fn encode(out: &mut Vec<u8>, attribute: i16, storage: Storage, value: Option<pg_sys::Datum>) {
    varint::put(out, u64::from(attribute.unsigned_abs()));
    varint::put(out, u64::from(storage.typid.to_u32()));
    let Some(datum) = value else { return out.push(0) };
    let mut append = |bytes: &[u8]| {
        varint::put(out, bytes.len() as u64 + 1);
        out.extend_from_slice(bytes);
    };
    if storage.by_value {
        let (word, length) = varint::signed_bytes(datum.value() as i64);
        return append(&word[..length]);
    }
    // SAFETY: the datum is a live value of a type stored as `storage` says: a varlena is made plain first,
    // a C string ends with a zero byte, any other has `length` bytes.
    unsafe {
        let pointer = datum.cast_mut_ptr::<u8>();
        match storage.length {
            -1 => {
                let plain = pg_sys::pg_detoast_datum(pointer.cast());
                append(std::slice::from_raw_parts(plain.cast(), pgrx::varlena::varsize_any(plain)));
                if plain.cast() != pointer {
                    pg_sys::pfree(plain.cast());
                }
            }
            -2 => append(std::ffi::CStr::from_ptr(pointer.cast()).to_bytes_with_nul()),
            n => append(std::slice::from_raw_parts(pointer, n as usize)),
        }
    }
}

/// A decoded column: attribute number, type, and value in the current memory context.
pub struct Column {
    /// Of the tracked table.
    pub attribute: i16,
    /// When it was written.
    pub typid: pg_sys::Oid,
    /// The value, or nothing for NULL.
    pub value: Option<pg_sys::Datum>,
}

/// Reads what [`encode`] wrote; stops at the first column that is cut off.
pub fn decode(mut bytes: &[u8], by_value: impl Fn(i16) -> bool) -> impl Iterator<Item = Column> {
    std::iter::from_fn(move || {
        let attribute = i16::try_from(varint::take(&mut bytes)?).ok()?;
        let typid = pg_sys::Oid::from(u32::try_from(varint::take(&mut bytes)?).ok()?);
        let Some(length) = varint::take(&mut bytes)?.checked_sub(1) else {
            return Some(Column { attribute, typid, value: None });
        };
        let length = usize::try_from(length).ok()?;
        let (body, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let value = match varint::signed(body) {
            Some(word) if by_value(attribute) => pg_sys::Datum::from(word),
            // SAFETY: palloc gives aligned memory of that many bytes; both ranges are live and distinct.
            _ => unsafe {
                let copy = pg_sys::palloc(length.max(1)).cast::<u8>();
                std::ptr::copy_nonoverlapping(body.as_ptr(), copy, length);
                pg_sys::Datum::from(copy)
            },
        };
        Some(Column { attribute, typid, value: Some(value) })
    })
}

/// Whether a value of variable length is where it stands, as it is: neither elsewhere nor compressed.
pub fn is_inline(datum: pg_sys::Datum) -> bool {
    // SAFETY: the datum is a live varlena.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        !pgrx::varlena::varatt_is_1b_e(pointer) && !pgrx::varlena::varatt_is_4b_c(pointer)
    }
}

/// Hands over the bytes of a datum of variable length where they stand; a copy, where it takes one, goes with the current memory context.
pub fn with_bytes<T>(datum: pg_sys::Datum, each: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: the datum is a non-null varlena, which lives as long as the tuple that it was read from.
    unsafe {
        let stored = datum.cast_mut_ptr();
        let plain = if is_inline(datum) { stored } else { pg_sys::pg_detoast_datum_packed(stored) };
        let data = pgrx::varlena::vardata_any(plain).cast::<u8>();
        each(std::slice::from_raw_parts(data, pgrx::varlena::varsize_any_exhdr(plain)))
    }
}

/// The bytes of a `bytea` datum.
pub fn bytea(datum: pg_sys::Datum) -> Vec<u8> {
    // SAFETY: the datum is a non-null bytea.
    unsafe { pgrx::FromDatum::from_datum(datum, false) }.unwrap_or_default()
}
