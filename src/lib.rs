//! GPROXY: a gateway for LLM APIs in one small static binary.

pub mod failure;
pub mod limits;
pub mod metrics;
pub mod secret;
