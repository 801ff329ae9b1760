//! Deliberate faults, compiled in only with the feature `mutants`: the oracle must catch each of them.

/// A rule that can be broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// In-progress transactions are forgotten in the cursor.
    NoXip,
    /// Cursors older than the horizon are accepted.
    HorizonIgnored,
    /// Rows are read with a second, later snapshot.
    SecondSnapshot,
    /// No log row when a filter column changes.
    NoFilterTombstone,
    /// No log row when a row is deleted.
    NoDeleteTombstone,
    /// A cursor that saw more than this snapshot is answered.
    AheadIgnored,
    /// The horizon is compared by `xmax` alone.
    HorizonByXmax,
    /// A cursor leaves before its log is on disk.
    NoFlush,
    /// The standby's snapshot is read as `pg_current_snapshot()` does.
    StandbyCurrentSnapshot,
    /// Rows that enter for what moved at a level are not sent.
    NoEnter,
    /// Rows that leave for what moved at a level are not deleted.
    NoLeave,
    /// Inserts are not logged where a table asks for it.
    NoInsertLog,
    /// The first log row of a key is the one with the lowest transaction id.
    FirstByXid,
    /// A changed key is not logged as entering.
    NoKeyEnter,
    /// Row security cuts the tables, as Postgres does it, but not the log.
    PolicyIgnored,
    /// A page goes on behind the transaction that it ended in.
    PageBoundary,
    /// The stream does not tell of rows that leave a shape and stay in their table.
    StreamNoLeave,
    /// A change at a level makes no shape of the stream stale.
    StreamLevelIgnored,
    /// A position of the stream has seen all below its transaction.
    StreamWatermark,
    /// Barriers make no shape of the stream stale.
    StreamBarrierIgnored,
    /// The stream's upserts come before its deletes.
    StreamUpsertsFirst,
}

#[cfg(not(feature = "mutants"))]
mod active {
    use super::Mutant;

    pub fn define_settings() {}

    #[inline(always)]
    pub fn is(_: Mutant) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod active {
    use std::ffi::CString;

    use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

    use super::Mutant;

    static MUTANT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

    pub fn define_settings() {
        let (name, text) = (c"syncline.mutant", c"the fault to make");
        GucRegistry::define_string_guc(name, text, text, &MUTANT, GucContext::Userset, GucFlags::default());
    }

    pub fn is(mutant: Mutant) -> bool {
        let name = match mutant {
            Mutant::NoXip => "no_xip",
            Mutant::HorizonIgnored => "horizon_ignored",
            Mutant::SecondSnapshot => "second_snapshot",
            Mutant::NoFilterTombstone => "no_filter_tombstone",
            Mutant::NoDeleteTombstone => "no_delete_tombstone",
            Mutant::AheadIgnored => "ahead_ignored",
            Mutant::HorizonByXmax => "horizon_by_xmax",
            Mutant::NoFlush => "no_flush",
            Mutant::StandbyCurrentSnapshot => "standby_current_snapshot",
            Mutant::NoEnter => "no_enter",
            Mutant::NoLeave => "no_leave",
            Mutant::NoInsertLog => "no_insert_log",
            Mutant::FirstByXid => "first_by_xid",
            Mutant::NoKeyEnter => "no_key_enter",
            Mutant::PolicyIgnored => "policy_ignored",
            Mutant::PageBoundary => "page_boundary",
            Mutant::StreamNoLeave => "stream_no_leave",
            Mutant::StreamLevelIgnored => "stream_level_ignored",
            Mutant::StreamWatermark => "stream_watermark",
            Mutant::StreamBarrierIgnored => "stream_barrier_ignored",
            Mutant::StreamUpsertsFirst => "stream_upserts_first",
        };
        MUTANT.get().is_some_and(|value| value.as_bytes() == name.as_bytes())
    }
}

pub use active::{define_settings, is};
