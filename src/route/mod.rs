//! Who serves a request: users, providers, aliases and permissions, as immutable tables.
//!
//! Pure: a decision is a function of the tables and a name. Knows no socket, clock or lock, and
//! never sees a body.

pub mod account;
pub mod channel;
pub mod fence;
pub mod glob;
pub mod health;
pub mod listing;
pub mod memory;
pub mod plan;
pub mod price;
pub mod quota;
pub mod rate;
pub mod retry;
pub mod sheet;
pub mod snapshot;
pub mod times;
