#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("uptane_metadata"), |data: &[u8]| pitstop_fuzz::run("uptane_metadata", data));
