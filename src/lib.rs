//! GPROXY: a gateway for LLM APIs in one small static binary.

pub mod admin;
pub mod config;
pub mod dialect;
pub mod edge;
pub mod exchange;
pub mod failure;
pub mod io;
pub mod limits;
pub mod metrics;
pub mod route;
pub mod secret;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
