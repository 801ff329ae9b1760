//! Changes as they commit: what a transaction of the write-ahead log means for a shape, and how it is told.
//!
//! The stream is exact or says that it is not (`stale`). `net` turns a transaction's row changes into at most one
//! change per key, `options` reads what a client asks for, `object` writes the JSON objects.

pub mod net;
pub mod object;
pub mod options;

/// Why a shape cannot be followed through a transaction: its client has to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Another table decides over the row, or was changed itself.
    Parent,
    /// The tables changed in a way that no delta can describe.
    Barrier,
    /// A large value that was not changed is not in the log, and the client does not have it.
    Toast,
    /// The transaction changes more than is kept in memory.
    Size,
    /// The definition of a table does not tell what the shape means there.
    Schema,
}

impl Reason {
    /// The word that stands in the `stale` object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Barrier => "barrier",
            Self::Toast => "toast",
            Self::Size => "size",
            Self::Schema => "schema",
        }
    }
}
