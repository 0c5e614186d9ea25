#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("conditions"), |data: &[u8]| pitstop_fuzz::run("conditions", data));
