//! Throw-away clusters on a private copy of the PostgreSQL installation, and what runs on them: golden
//! files and the oracle.

pub mod alteration;
mod cluster;
pub mod follower;
pub mod fuzz;
pub mod golden;
pub mod histories;
mod install;
pub mod oracle;
pub mod relay;
pub mod replication;
pub mod rng;
pub mod slot;
pub mod stage;

pub use cluster::{Cluster, Stopped, is_alive};
pub use install::{Install, repository, scratch};
