//! Version-1 entry points: declaration and arguments.

use pgrx::pg_sys;

/// Declares the `pg_finfo_` record and the guarded C symbol of a function; the body is a safe call.
macro_rules! entry_point {
    ($(#[$doc:meta])* $symbol:ident, $finfo:ident, $body:expr) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> *const pgrx::pg_sys::Pg_finfo_record {
            static VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// Called by Postgres' function manager only.
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: the function manager passes a valid call frame that outlives this call.
            let mut call = unsafe { $crate::pg::function::Call::new(fcinfo) };
            #[allow(clippy::redundant_closure_call)]
            ($body)(&mut call)
        }
    };
}
pub(crate) use entry_point;

/// A call frame of the function manager.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

impl Call {
    /// # Safety
    ///
    /// `fcinfo` is the frame of the call in progress.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self { fcinfo }
    }

    /// The raw frame, for the wrappers of this module's siblings.
    pub fn raw(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// The argument's datum, or nothing for SQL NULL.
    pub fn arg(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the frame has as many arguments as the SQL declaration; callers stay within it.
        let arg = unsafe {
            let nargs = usize::try_from((*self.fcinfo).nargs).unwrap_or(0);
            assert!(n < nargs, "argument {n} of {nargs}");
            (*self.fcinfo).args.as_slice(nargs)[n]
        };
        (!arg.isnull).then_some(arg.value)
    }

    /// A `text` argument.
    pub fn text(&self, n: usize) -> Option<String> {
        self.arg(n).map(text)
    }

    /// A `jsonb` argument.
    pub fn jsonb(&self, n: usize) -> Option<Jsonb> {
        self.arg(n).map(Jsonb::of)
    }
}

/// A `jsonb` value in its binary form, which tells one from another sooner than its text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Jsonb(Vec<u32>);

impl Jsonb {
    fn of(datum: pg_sys::Datum) -> Self {
        // SAFETY: the datum is a live jsonb; detoasted it has a header of four bytes and is as long as that says.
        unsafe {
            let varlena = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let length = pgrx::varlena::varsize_4b(varlena);
            let mut words = vec![0; length.div_ceil(size_of::<u32>())];
            std::ptr::copy_nonoverlapping(varlena.cast::<u8>(), words.as_mut_ptr().cast(), length);
            Self(words)
        }
    }

    /// As JSON.
    pub fn text(&self) -> String {
        output(pg_sys::F_JSONB_OUT.into(), pg_sys::Datum::from(self.0.as_ptr()))
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        size_of_val(self.0.as_slice())
    }
}

/// The members of a `smallint[]` without NULLs.
pub fn int2_array(datum: pg_sys::Datum) -> Vec<i16> {
    // SAFETY: the datum is a non-null smallint[].
    unsafe { pgrx::FromDatum::from_datum(datum, false) }.unwrap_or_default()
}

/// The text of a `text` datum.
pub fn text(datum: pg_sys::Datum) -> String {
    // SAFETY: the datum is a non-null text, as the SQL declaration says.
    unsafe { pgrx::FromDatum::from_datum(datum, false) }.unwrap_or_default()
}

/// A new `text` (or `json`) datum in the current memory context.
pub fn text_datum(bytes: &[u8]) -> pg_sys::Datum {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and length are those of a live slice; cstring_to_text_with_len copies.
    unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length) }.into()
}

/// The text that a type's output function gives.
pub fn output(function: pg_sys::Oid, datum: pg_sys::Datum) -> String {
    // SAFETY: the function is the output function of the datum's type; it returns a palloc'd C string.
    unsafe {
        let cstring = pg_sys::OidOutputFunctionCall(function, datum);
        let text = std::ffi::CStr::from_ptr(cstring).to_string_lossy().into_owned();
        pg_sys::pfree(cstring.cast());
        text
    }
}

/// A value from its text; the type's input function reports what it does not accept.
pub fn input(typid: pg_sys::Oid, text: &str, typmod: i32) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: the input function of an existing type, called with a live C string.
    unsafe {
        pg_sys::getTypeInputInfo(typid, &mut function, &mut parameter);
        pg_sys::OidInputFunctionCall(function, text.as_ptr().cast_mut(), parameter, typmod)
    }
}
