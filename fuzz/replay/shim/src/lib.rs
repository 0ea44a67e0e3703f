//! Stands in for libfuzzer-sys: the same macro, which makes a function of a fuzz target instead of a program.
#![forbid(unsafe_code)]

/// Makes `run(&[u8])` of a fuzz target.
#[macro_export]
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $body:expr) => {
        /// Runs the target on one input.
        pub fn run($bytes: &[u8]) {
            $body
        }
    };
    (|$text:ident: &str| $body:expr) => {
        /// Runs the target on one input, if it is text.
        pub fn run(bytes: &[u8]) {
            if let Ok($text) = ::core::str::from_utf8(bytes) {
                $body
            }
        }
    };
}
