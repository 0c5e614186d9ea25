#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("uds_server"), |data: &[u8]| pitstop_fuzz::run("uds_server", data));
