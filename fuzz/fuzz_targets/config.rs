//! Whatever parses as a configuration is written as text that parses to the same; whatever does not is refused in one
//! line that names file, line and key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_proto::config;

fuzz_target!(|text: &str| {
    match config::parse(text, "fuzz.toml") {
        Ok(parsed) => {
            let written = config::to_toml(&parsed);
            let again = config::parse(&written, "written.toml").expect("what was written parses");
            assert_eq!(again, parsed);
            assert_eq!(config::to_toml(&again), written);
            for rule in &parsed.rules {
                assert_eq!(rule.check(), Ok(()));
            }
            assert!(config::warnings(&parsed).iter().all(|line| !line.contains('\n')));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message}");
            assert!(
                message.starts_with(&format!("fuzz.toml:{}: key `{}`: ", error.line, error.key)),
                "{message}"
            );
        }
    }
});
