//! Numbers and names as people read them.

pub(crate) use mcr_top::human;

use mcr_proto::message::{IoChoice, RuleState, WorkerState};

/// A time, as `999ns`, `1.25ms`, `3.20s` or `26.5h`.
pub(crate) fn duration(ns: u64) -> String {
    const UNITS: [(&str, f64, f64); 6] = [
        ("ns", 1.0, 1e3),
        ("us", 1e3, 1e6),
        ("ms", 1e6, 1e9),
        ("s", 1e9, 100e9),
        ("min", 60e9, 6_000e9),
        ("h", 3_600e9, f64::INFINITY),
    ];
    let value = ns as f64;
    let (unit, size, _) = UNITS.into_iter().find(|(.., end)| value < *end).unwrap_or(UNITS[5]);
    let value = value / size;
    let decimals = if unit == "ns" || value >= 99.95 {
        0
    } else if value < 9.995 {
        2
    } else {
        1
    };
    format!("{value:.decimals$}{unit}")
}

/// Bytes, as `1.40MB`.
pub(crate) fn bytes(count: u64) -> String {
    format!("{}B", human(count as f64))
}

pub(crate) fn worker_state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Running => "running",
        WorkerState::Backoff => "backoff",
    }
}

pub(crate) fn io_choice(io: IoChoice) -> &'static str {
    match io {
        IoChoice::Auto => "auto",
        IoChoice::Uring => "uring",
        IoChoice::Syscalls => "syscalls",
    }
}

/// A value that may not be there.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// What a rule or a reflector in this state is waiting for; `does` is what it does then, as in "relaying".
pub(crate) fn outlook(state: RuleState, does: &str) -> String {
    match state {
        RuleState::Unresolved => format!("it starts {does} when the interface appears"),
        // An interface that is down, or a worker that is not there: the reason says which.
        RuleState::Paused => format!("it starts {does} as soon as that changes"),
        RuleState::Failed => "the daemon tries again by itself".into(),
        RuleState::Disabled => format!("it starts {does} once it is enabled"),
        RuleState::Active => format!("it is {does} now"),
    }
}

/// The text with anything that could break or repaint a line made visible.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            let (shown, escaped) = if escape { (None, Some(c.escape_default())) } else { (Some(c), None) };
            shown.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        assert_eq!(bytes(1400), "1.40kB");
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (ns, want) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (12_340, "12.3us"),
            (1_310_720, "1.31ms"),
            (59_940_000_000, "59.9s"),
            (120_000_000_000, "2.00min"),
            (86_400_000_000_000, "24.0h"),
        ] {
            assert_eq!(duration(ns), want);
        }
    }

    #[test]
    fn what_waits_is_said_to_wait_for_what_its_reason_names() {
        assert_eq!(outlook(RuleState::Paused, "relaying"), "it starts relaying as soon as that changes");
        assert_eq!(
            outlook(RuleState::Unresolved, "reflecting"),
            "it starts reflecting when the interface appears"
        );
    }

    #[test]
    fn a_message_is_one_line_and_paints_nothing() {
        assert_eq!(one_line("a\nb\u{1b}[31mc\u{2028}é"), "a\\nb\\u{1b}[31mc\\u{2028}é");
    }
}
