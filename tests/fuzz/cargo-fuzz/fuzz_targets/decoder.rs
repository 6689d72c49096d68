//! One decoder, named by FUZZ_TARGET, under libFuzzer.

#![no_main]

use std::sync::LazyLock;

static NAME: LazyLock<String> = LazyLock::new(|| {
    std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target, such as registry-delta")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shoal_fuzz::withstand(&NAME, bytes));
