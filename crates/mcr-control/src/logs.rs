//! This process's log lines, on their way to the supervisor, who prints them. Bounded: what the supervisor does not take in time
//! is dropped and counted, and nothing waits for it.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use mcr_proto::message::LogLevel;
use tokio::sync::Notify;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    subscriber::Interest,
};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that wait for the supervisor.
const LINES_MAX: usize = 256;
/// Of a line, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// The layer's end, and the end that lines come out of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Less severe lines are not sent; the discriminant of a [`LogLevel`].
    level: AtomicU8,
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        let level = AtomicU8::new(LogLevel::Info as u8);
        Self { level, waiting: Mutex::default(), news: Notify::new() }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(LogLevel, String)>,
    dropped: u64,
}

impl Lines {
    /// Sends lines of this severity and above from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        self.0.level.store(level as u8, Relaxed);
    }

    /// The next line. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> (LogLevel, String) {
        loop {
            if let Some(line) = self.pop() {
                return line;
            }
            self.0.news.notified().await;
        }
    }

    pub(crate) fn pop(&self) -> Option<(LogLevel, String)> {
        let mut waiting = self.waiting();
        waiting.lines.pop_front().or_else(|| {
            let dropped = std::mem::take(&mut waiting.dropped);
            let text = format!("{dropped} lines of the log were dropped, the supervisor was busy");
            (dropped > 0).then_some((LogLevel::Warn, text))
        })
    }

    fn push(&self, level: LogLevel, line: String) {
        let mut waiting = self.waiting();
        if waiting.lines.len() >= LINES_MAX {
            waiting.dropped += 1;
        } else {
            waiting.lines.push_back((level, line));
            self.0.news.notify_one();
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Whoever panicked with the lock held left a queue that is whole.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("mcr_") && level(metadata) as u8 <= self.0.level.load(Relaxed)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.push(level(event.metadata()), line.0);
    }
}

fn level(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// The message first, then `key=value` for each field.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            // Fields may have come before it.
            let fields = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{fields}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        // Writing to a string does not fail; a value whose text does is left out.
        let _ = written;
        let end = (0..=LINE_BYTES_MAX.min(self.0.len())).rev().find(|end| self.0.is_char_boundary(*end));
        self.0.truncate(end.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info, subscriber::with_default, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn said(lines: &Lines, say: impl FnOnce()) -> Vec<(LogLevel, String)> {
        with_default(tracing_subscriber::registry().with(lines.clone()), say);
        std::iter::from_fn(|| lines.pop()).collect()
    }

    fn two_lines() {
        warn!(client = 7, "it {}", "broke");
        debug!("a detail");
    }

    #[test]
    fn a_line_is_its_message_and_its_fields() {
        assert_eq!(said(&Lines::default(), two_lines), [(LogLevel::Warn, "it broke client=7".to_owned())]);
    }

    #[test]
    fn the_level_can_change_at_any_time() {
        let lines = Lines::default();
        let mut counts = Vec::new();
        for level in [LogLevel::Debug, LogLevel::Error, LogLevel::Trace] {
            lines.set_level(level);
            counts.push(said(&lines, two_lines).len());
        }
        assert_eq!(counts, [2, 0, 2]);
    }

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted() {
        let said = said(&Lines::default(), || (0..LINES_MAX + 3).for_each(|_| info!("x")));
        assert_eq!(said.len(), LINES_MAX + 1);
        assert!(said[LINES_MAX].1.starts_with("3 lines"), "{:?}", said[LINES_MAX]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let said = said(&Lines::default(), || info!("{}", "ü".repeat(LINE_BYTES_MAX)));
        assert!(said[0].1.len() <= LINE_BYTES_MAX && said[0].1.ends_with('ü'));
    }
}
