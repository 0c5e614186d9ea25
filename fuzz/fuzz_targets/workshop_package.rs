#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("workshop_package"), |data: &[u8]| pitstop_fuzz::run("workshop_package", data));
