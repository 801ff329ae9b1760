//! Throw-away clusters on a private copy of the PostgreSQL installation, and the oracle that runs on them.

mod cluster;
mod install;
pub mod oracle;
pub mod rng;

pub use cluster::Cluster;
pub use install::Install;
