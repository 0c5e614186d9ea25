#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("bundle_description"), |data: &[u8]| pitstop_fuzz::run("bundle_description", data));
