#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("isotp"), |data: &[u8]| pitstop_fuzz::run("isotp", data));
