#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("boot_environment"), |data: &[u8]| pitstop_fuzz::run("boot_environment", data));
