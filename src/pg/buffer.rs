//! Bytes in Postgres' memory that become one value where they stand: a document of some megabytes takes as long to be copied as
//! to be written.

use pgrx::pg_sys;

/// What is kept free for the header of the value and for what comes before the bytes.
const ROOM: usize = 512;
/// The header of a value of any length. Postgres wants it aligned to its own size.
const HEADER: usize = size_of::<u32>();

/// From so many bytes on a value gets the memory that it may need at once.
const LONG: i32 = 64 << 10;

/// A text that grows at its end, and in the end gets its beginning. It lives as long as the memory context that it was made in.
pub struct Buffer {
    info: pg_sys::StringInfoData,
    expected: i32,
}

impl Buffer {
    /// An empty one, that will have so many bytes if it has many.
    pub fn new(expected: usize) -> Self {
        let mut info = pg_sys::StringInfoData::default();
        // SAFETY: initialises the struct.
        unsafe { pg_sys::initStringInfo(&mut info) };
        let mut buffer = Self { info, expected: i32::try_from(expected).unwrap_or(0) };
        buffer.clear();
        buffer
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.info.len = 0;
        self.put(&[&[0; ROOM]]);
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        usize::try_from(self.info.len).unwrap_or(0) - ROOM
    }

    /// Appends bytes, given in parts; an error if there would be a gigabyte of them.
    pub fn put(&mut self, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        if length >= self.info.maxlen - self.info.len {
            self.enlarge(length);
        }
        // SAFETY: there is room for the parts behind what the buffer has.
        unsafe {
            let mut end = self.info.data.cast::<u8>().add(usize::try_from(self.info.len).unwrap_or(0));
            for part in parts {
                std::ptr::copy_nonoverlapping(part.as_ptr(), end, part.len());
                end = end.add(part.len());
            }
        }
        self.info.len += length;
    }

    /// Makes room for so many bytes more.
    #[cold]
    fn enlarge(&mut self, length: i32) {
        let is_long = self.info.len >= LONG;
        if is_long {
            keep_freed_memory();
        }
        let more = if is_long { length.max(self.expected - self.info.len) } else { length };
        // SAFETY: the struct is initialised; what was put stays.
        unsafe { pg_sys::enlargeStringInfo(&mut self.info, more) };
    }

    /// These bytes, and behind them all others, as a `text` (or `json`) datum. They stay where they are if the head is short,
    /// and its length a multiple of 4.
    pub fn into_text(mut self, head: &[u8]) -> pg_sys::Datum {
        let (length, before) = (self.len(), HEADER + head.len());
        let start = ROOM.saturating_sub(before) / HEADER * HEADER;
        let behind = start + before;
        if behind > ROOM {
            self.put(&[&vec![0; behind - ROOM]]);
        }
        // SAFETY: the memory has room and bytes, and as much more as the head is longer than the room.
        unsafe {
            let data = self.info.data.cast::<u8>();
            if behind != ROOM {
                std::ptr::copy(data.add(ROOM), data.add(behind), length);
            }
            let value = data.add(start);
            std::ptr::copy_nonoverlapping(head.as_ptr(), value.add(HEADER), head.len());
            pgrx::varlena::set_varsize_4b(value.cast(), i32::try_from(before + length).unwrap_or(i32::MAX));
            pg_sys::Datum::from(value)
        }
    }
}

/// Has the allocator of this process keep what is freed, up to 32 MB, which is the most that glibc comes to by itself.
///
/// On its way to the client a document is copied twice, into memory that Postgres rounds up to a power of two. glibc gives memory back to the
/// kernel when more than twice its largest piece so far lies free, and those two copies are. To have it cleared and mapped anew for each page,
/// 4 kB at a time, took a third of the page's time.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        const MOST: i32 = 32 << 20;
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: changes parameters of the allocator.
        ONCE.call_once(|| unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, MOST);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MOST);
        });
    }
}
