#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("vehicle_description"), |data: &[u8]| pitstop_fuzz::run("vehicle_description", data));
