#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("doip_entity"), |data: &[u8]| pitstop_fuzz::run("doip_entity", data));
