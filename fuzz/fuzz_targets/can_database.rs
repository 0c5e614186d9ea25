#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("can_database"), |data: &[u8]| pitstop_fuzz::run("can_database", data));
