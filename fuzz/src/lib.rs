//! What the fuzzers in `fuzz_targets/` share: the parsers, and how one becomes a fuzzer. `cargo xtask fuzz` builds and
//! runs them; docs/hardening.md says what was found.

pub mod parsers;

/// Panics that a parser catches itself are no findings: the fuzzer's hook, which ends the process at any panic, is
/// replaced by one that keeps silent. What a parser lets through still ends it.
pub fn let_parsers_catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // The last words of a panic that nobody catches are all there is to go by.
        if std::env::var_os("DISTILL_FUZZ_PANICS").is_some() {
            eprintln!("{panic}");
        }
    }));
}

/// Makes a fuzzer of the parser with this function.
#[macro_export]
macro_rules! fuzzer {
    ($read:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::let_parsers_catch_panics(),
            |bytes: &[u8]| $crate::parsers::$read(bytes)
        );
    };
}
