//! Bytes in Postgres' memory that become one value where they stand. A document of some megabytes that is copied takes as long
//! for the fresh memory as for being written, and so does one whose memory is fresh for each page of a round.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::memory::Area;

/// What is kept free for the header of the value and for what comes before the bytes.
const ROOM: usize = 512;
/// The header of a value of any length.
const HEADER: usize = size_of::<u32>();

/// The most bytes that are kept for the next value: what a page of usual size grows to.
const MOST_KEPT: i32 = 8 << 20;

thread_local! {
    /// Memory of a value that nobody has any more.
    static SPARE: Cell<Option<Box<Memory>>> = const { Cell::new(None) };
}

/// Bytes that outlive a call.
struct Memory {
    info: pg_sys::StringInfoData,
    area: Area,
}

impl Memory {
    fn new() -> Box<Self> {
        // An error leaves it to the call.
        let area = Area::of_call(c"syncline document");
        let mut info = pg_sys::StringInfoData::default();
        // SAFETY: initialises the struct.
        area.run(|| unsafe { pg_sys::initStringInfo(&mut info) });
        area.outlive_call();
        Box::new(Self { info, area })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.area.free();
    }
}

/// The context that a value belonged to is emptied: its memory is kept if the next value may be as long.
#[pg_guard]
unsafe extern "C-unwind" fn ended(memory: *mut c_void) {
    // SAFETY: `Buffer::new` registered it with memory that nothing else frees.
    let memory = unsafe { Box::from_raw(memory.cast::<Memory>()) };
    let is_used = memory.info.len > memory.info.maxlen / 4;
    SPARE.set((is_used && memory.info.maxlen <= MOST_KEPT).then_some(memory));
}

/// A text that grows at its end, and in the end gets its beginning. It lives as long as the memory context that it was made in.
pub struct Buffer(*mut Memory);

impl Buffer {
    /// An empty one.
    pub fn new() -> Self {
        // SAFETY: the callback is allocated in the context whose end it notices, with room for its fields. Behind that nothing
        // fails before it is registered: what it frees would stay.
        let memory = unsafe {
            let callback = pg_sys::palloc0(size_of::<pg_sys::MemoryContextCallback>());
            let callback = callback.cast::<pg_sys::MemoryContextCallback>();
            let memory = Box::into_raw(SPARE.take().unwrap_or_else(Memory::new));
            (*callback).func = Some(ended);
            (*callback).arg = memory.cast();
            pg_sys::MemoryContextRegisterResetCallback(pg_sys::CurrentMemoryContext, callback);
            memory
        };
        let mut buffer = Self(memory);
        buffer.clear();
        buffer
    }

    fn info(&self) -> &pg_sys::StringInfoData {
        // SAFETY: the memory lives as long as the context, and this value no longer.
        unsafe { &(*self.0).info }
    }

    fn info_mut(&mut self) -> &mut pg_sys::StringInfoData {
        // SAFETY: as above, and there is one buffer for it.
        unsafe { &mut (*self.0).info }
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.info_mut().len = 0;
        self.put(&[0; ROOM]);
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        usize::try_from(self.info().len).unwrap_or(0) - ROOM
    }

    /// Appends bytes; an error if there would be a gigabyte of them.
    pub fn put(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        let out = self.info_mut();
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
            let data = self.info().data.cast::<u8>();
            std::ptr::copy(data.add(ROOM), data.add(start), length);
            std::ptr::copy_nonoverlapping(head.as_ptr(), data.add(HEADER), head.len());
            pgrx::varlena::set_varsize_4b(data.cast(), i32::try_from(start + length).unwrap_or(i32::MAX));
            pg_sys::Datum::from(data)
        }
    }
}
