//! Any bytes through the HTTP/1 parser, the normaliser and the writer: nothing panics, arrival in pieces makes no
//! difference, and what is written is read as the same request again.
#![no_main]

#[path = "../../tests/reading/mod.rs"]
mod reading;

libfuzzer_sys::fuzz_target!(|raw: &[u8]| reading::check(raw));
