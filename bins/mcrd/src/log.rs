//! The log of the supervisor, on standard error. Children send theirs to it.

mod repeats;

use std::{
    fmt::{self, Write},
    io::{self, IsTerminal},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use mcr_proto::message::{Facility, LogLevel, LogLevels};
use mcr_supervisor::{FACILITIES, Log, LogOutput};
use tracing::{
    Event, Level, Metadata, Subscriber, callsite, debug, error,
    field::{Field, Visit},
    info, trace, warn,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt::layer,
    layer::{Context, Filter, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use self::repeats::Repeats;
use crate::args::{LogFormat, LogLevelArg};

/// Target of what is said of lines that were held back: those were of a level that is printed.
const HELD_BACK: &str = "held_back";

/// Starts printing.
pub(crate) fn start(level: LogLevelArg, format: LogFormat) -> Log {
    let levels = LogLevels::all(level.into());
    let (filter, handle) = reload::Layer::new(targets(&levels));
    let repeats = Limiter::default();
    let lines = match format {
        LogFormat::Text => {
            layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines.with_filter(repeats.clone())).init();
    Log { levels, output: Rc::new(Output { handle, repeats }) }
}

struct Output {
    handle: reload::Handle<Targets, Registry>,
    repeats: Limiter,
}

impl LogOutput for Output {
    fn set(&self, levels: &LogLevels) {
        // Fails only when nothing prints any more.
        let _ = self.handle.reload(targets(levels));
    }

    fn tick(&self) {
        let due = self.repeats.lock().due(Instant::now());
        for (line, count) in due {
            let text = line.text;
            match line.level {
                Level::ERROR => error!(target: HELD_BACK, "{count} more like this: {text}"),
                Level::WARN => warn!(target: HELD_BACK, "{count} more like this: {text}"),
                Level::INFO => info!(target: HELD_BACK, "{count} more like this: {text}"),
                Level::DEBUG => debug!(target: HELD_BACK, "{count} more like this: {text}"),
                Level::TRACE => trace!(target: HELD_BACK, "{count} more like this: {text}"),
            }
        }
    }
}

fn targets(levels: &LogLevels) -> Targets {
    let targets = FACILITIES.iter().map(|(target, facility)| (*target, filter(levels.of(*facility))));
    let rest = filter(levels.of(Facility::Supervisor));
    Targets::new().with_default(rest).with_targets(targets).with_target(HELD_BACK, LevelFilter::TRACE)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Lets a line through unless it was said too often.
#[derive(Clone, Default)]
struct Limiter(Arc<Mutex<Repeats<Line>>>);

/// What makes two lines the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Line {
    callsite: callsite::Identifier,
    level: Level,
    text: String,
}

impl Limiter {
    fn lock(&self) -> std::sync::MutexGuard<'_, Repeats<Line>> {
        // Whoever panicked with the lock held left counts that are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for Limiter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == HELD_BACK {
            return true;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = Line { callsite: metadata.callsite(), level: *metadata.level(), text: text.0 };
        self.lock().admit(line, Instant::now())
    }
}

/// The message first, then `key=value` for each field.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            let fields = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{fields}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_facility_prints_at_its_own_level() {
        let mut levels = LogLevels::all(LogLevel::Warn);
        levels.set(Some(Facility::Rules), LogLevel::Debug);
        let targets = targets(&levels);
        for (target, level, want) in [
            ("mcr_supervisor::run", Level::INFO, false),
            ("mcr_supervisor::run", Level::WARN, true),
            ("mcr_supervisor::state", Level::DEBUG, true),
            ("mcr_supervisor::state", Level::TRACE, false),
            ("worker", Level::INFO, false),
            (HELD_BACK, Level::TRACE, true),
        ] {
            assert_eq!(targets.would_enable(target, &level), want, "{target} {level}");
        }
    }
}
