#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("uds_messages"), |data: &[u8]| pitstop_fuzz::run("uds_messages", data));
