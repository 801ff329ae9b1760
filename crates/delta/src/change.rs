//! The vocabulary of a delta, shared by pull and stream.

/// What a client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Drop everything held for this shape; what follows is complete.
    Reset,
    /// The row with this key is not in the shape.
    Delete,
    /// The row with this key is now this value.
    Upsert,
    /// All since the last commit applies at once; then store the cursor.
    Commit,
}

impl Op {
    /// The word in the `op` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Delete => "delete",
            Self::Upsert => "upsert",
            Self::Commit => "commit",
        }
    }
}
