//! The shell: moves bytes and keeps time. Knows `may`, ureq and rustls; knows no model names.

pub mod downstream;
pub mod handover;
pub mod http;
pub mod listener;
pub mod office;
pub mod resolver;
pub mod spool;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod watch;
pub mod worker;
