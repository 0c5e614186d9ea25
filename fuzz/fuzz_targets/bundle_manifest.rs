#![no_main]

libfuzzer_sys::fuzz_target!(init: pitstop_fuzz::begin("bundle_manifest"), |data: &[u8]| pitstop_fuzz::run("bundle_manifest", data));
