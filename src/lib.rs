//! GPROXY: a gateway for LLM APIs in one small static binary.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod admin;
pub mod api;
pub mod command;
pub mod config;
pub mod console;
pub mod decision;
pub mod dialect;
pub mod edge;
pub mod exchange;
pub mod failure;
pub mod io;
pub mod ledger;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod money;
pub mod password;
pub mod route;
pub mod secret;
pub mod serve;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
