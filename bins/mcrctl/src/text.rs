//! Numbers and names as people read them.

pub(crate) use mcr_top::human;

use mcr_proto::message::{IoChoice, RuleState, WorkerState};

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

/// What a rule in this state is waiting for.
pub(crate) fn outlook(state: RuleState) -> &'static str {
    match state {
        RuleState::Unresolved => "it starts relaying when the interface appears",
        RuleState::Paused => "it starts relaying when the interface is up",
        RuleState::Failed => "the daemon tries again by itself",
        RuleState::Disabled => "it relays once it is enabled",
        RuleState::Active => "it relays now",
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
    fn a_message_is_one_line_and_paints_nothing() {
        assert_eq!(one_line("a\nb\u{1b}[31mc\u{2028}é"), "a\\nb\\u{1b}[31mc\\u{2028}é");
    }
}
