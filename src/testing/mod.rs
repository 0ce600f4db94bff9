//! What tests, fuzz targets and benchmarks share: chance that can be repeated, every way to cut an
//! input, naive oracles, and the fuzz entry points.
//!
//! Each entry point takes the fuzzer's bytes, asserts laws and panics when one does not hold. The
//! same functions run in `cargo test` over seeded mutations of sound inputs and over the corpora of
//! `fuzz/`.

#[cfg(test)]
mod corpus;
pub mod documents;
pub mod fuzz_account;
pub mod fuzz_answer;
pub mod fuzz_batch;
pub mod fuzz_coding;
pub mod fuzz_config;
pub mod fuzz_echo;
pub mod fuzz_forwarded;
pub mod fuzz_http;
pub mod fuzz_json;
pub mod fuzz_live;
pub mod fuzz_multipart;
pub mod fuzz_path;
pub mod fuzz_response;
pub mod fuzz_sse;
pub mod fuzz_stored;
pub mod fuzz_upstream;
pub mod fuzz_usage;
pub mod fuzz_websocket;
pub mod mutate;
pub mod naive;
pub mod prng;
// `pick` lends what it picked; the star says that a copy is taken.
#[cfg(test)]
#[allow(clippy::explicit_auto_deref)]
mod simulation;
pub mod splits;
