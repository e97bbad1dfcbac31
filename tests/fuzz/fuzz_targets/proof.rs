#![no_main]

#[path = "../targets/signed.rs"]
#[expect(dead_code, reason = "the others are of other targets")]
mod target;

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8], &[u8])| target::proof(input));
