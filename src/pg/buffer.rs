//! Bytes in Postgres' memory that become one value where they stand. A document of some megabytes that is copied takes as long
//! for the fresh memory as for being written.

use pgrx::pg_sys;

/// What is kept free for the header of the value and for what comes before the bytes.
const ROOM: usize = 512;
/// The header of a value of any length.
const HEADER: usize = size_of::<u32>();

/// A text that grows at its end, and in the end gets its beginning.
pub struct Buffer(pg_sys::StringInfoData);

impl Buffer {
    /// An empty one, in the current memory context.
    pub fn new() -> Self {
        let mut buffer = pg_sys::StringInfoData::default();
        // SAFETY: initialises the struct.
        unsafe { pg_sys::initStringInfo(&mut buffer) };
        let mut buffer = Self(buffer);
        buffer.clear();
        buffer
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.0.len = 0;
        self.put(&[0; ROOM]);
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        usize::try_from(self.0.len).unwrap_or(0) - ROOM
    }

    /// Appends bytes; an error if there would be a gigabyte of them.
    pub fn put(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        let out = &mut self.0;
        if length >= out.maxlen - out.len {
            // SAFETY: the struct is initialised; what was put stays.
            unsafe { pg_sys::enlargeStringInfo(out, length) };
        }
        // SAFETY: there is room for so many bytes more.
        unsafe {
            let end = out.data.cast::<u8>().add(usize::try_from(out.len).unwrap_or(0));
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        out.len += length;
    }

    /// These bytes, and behind them all others, as a `text` (or `json`) datum.
    pub fn into_text(mut self, head: &[u8]) -> pg_sys::Datum {
        let (length, start) = (self.len(), HEADER + head.len());
        if start > ROOM {
            self.put(&vec![0; start - ROOM]);
        }
        // SAFETY: the memory has what was put into it: room and bytes, and as much more as the head is longer than the room.
        unsafe {
            let data = self.0.data.cast::<u8>();
            std::ptr::copy(data.add(ROOM), data.add(start), length);
            std::ptr::copy_nonoverlapping(head.as_ptr(), data.add(HEADER), head.len());
            pgrx::varlena::set_varsize_4b(data.cast(), i32::try_from(start + length).unwrap_or(i32::MAX));
            pg_sys::Datum::from(data)
        }
    }
}
