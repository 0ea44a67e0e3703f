//! A short soak, of the kind that `cargo xtask soak` runs for as long as one likes.

use std::time::Duration;

use mcr_e2e::{
    soak::{Options, run},
    traffic_lock,
};
use mcr_lab::require;

#[test]
fn half_a_minute_of_everything_at_once_leaves_everything_in_bounds() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut lines = Vec::new();
    let options = Options { trouble: Duration::from_secs(30), seed: 7 };
    let report = run(&options, &mut |line| lines.push(line.to_owned()));
    assert!(report.faults.is_empty(), "{:#?}\n{}\n{}", report.faults, lines.join("\n"), report.json);
}
