#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gproxy::testing::fuzz_echo::fields(data));
