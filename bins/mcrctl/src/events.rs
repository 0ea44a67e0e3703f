//! `events` and `log-level`.

use mcr_proto::{
    message::{EventKind, Facility, LogLevel},
    rpc::{Event, LogSet, LogShown, Subscribe, method},
};
use serde_json::json;

use crate::{args::Events, failure::Failure, run::Session};

impl Session<'_> {
    pub(crate) fn events(&mut self, events: &Events) -> Result<(), Failure> {
        let kinds = events.kind.iter().map(|kind| match kind {
            crate::args::Kind::Rule => EventKind::Rule,
            crate::args::Kind::Interface => EventKind::Interface,
            crate::args::Kind::Worker => EventKind::Worker,
        });
        let kinds: Vec<_> = kinds.collect();
        let mut client = self.connect()?;
        client.subscribe(&Subscribe { kinds: (!kinds.is_empty()).then_some(kinds) })?;
        let mut count = 0;
        while events.count.is_none_or(|max| count < max) {
            // Without a limit of time there is always another, or an error.
            let Some(event) = client.next_event(None)? else { continue };
            if self.cli.json {
                self.json(&event)?;
            } else {
                writeln!(self.out, "{}", line(&event))?;
            }
            // Somebody is watching.
            self.out.flush()?;
            count += 1;
        }
        Ok(())
    }

    pub(crate) fn log_level(&mut self, level: Option<&str>, facility: Option<&str>) -> Result<(), Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
        let facility = facility.map(str::parse::<Facility>).transpose().map_err(|error| usage(&error))?;
        let shown: LogShown = match level {
            Some(level) => {
                let level: LogLevel = level.parse().map_err(|error| usage(&error))?;
                self.call(method::LOG_SET, &LogSet { level, facility })?
            }
            None => self.call(method::LOG_GET, &json!({}))?,
        };
        if self.cli.json {
            return self.json(&shown);
        }
        for (name, level) in
            shown.levels.iter().filter(|(name, _)| facility.is_none_or(|wanted| wanted == **name))
        {
            writeln!(self.out, "{name:<10} {level}")?;
        }
        Ok(())
    }
}

/// Time, kind, subject, what, why.
fn line(event: &Event) -> String {
    let subject = match event.kind {
        EventKind::Rule => event.rule.as_ref().map(ToString::to_string),
        EventKind::Interface => event.interface.clone(),
        EventKind::Worker => event.worker.map(|worker| worker.to_string()),
        EventKind::Missed => event.count.map(|count| count.to_string()),
    };
    let mut line = format!(
        "{} {} {} {}",
        time_ms(event.time_ns),
        event.kind,
        subject.unwrap_or_else(|| "-".into()),
        event.what
    );
    if let (EventKind::Rule, Some(worker)) = (event.kind, event.worker) {
        line += &format!(" (worker {worker})");
    }
    if let Some(address) = event.address {
        line += &format!(" {address}");
    }
    if let Some(reason) = &event.reason {
        line += &format!(": {}", crate::text::one_line(reason));
    }
    line
}

/// To the millisecond.
fn time_ms(time_ns: u64) -> String {
    let mut text = time(time_ns);
    text.replace_range(text.len() - 7.., "Z");
    text
}

/// As RFC 3339 has it, to the nanosecond, in UTC.
pub(crate) fn time(time_ns: u64) -> String {
    let (seconds, nanos) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The date of a day counted from the first of 1970: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`. Years begin in March there, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_000_000_000, "2001-09-09T01:46:40.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time_ms(seconds * 1_000_000_000), want);
        }
    }

    #[test]
    fn an_event_is_one_line_that_says_who_what_and_why() {
        let text = r#"{"seq":1,"time_ns":0,"kind":"rule","what":"paused","rule":"video","id":1,"worker":0,"reason":"eth0 is\ndown"}"#;
        let event = serde_json::from_str(text).expect("an event");
        assert_eq!(line(&event), "1970-01-01T00:00:00.000Z rule video paused (worker 0): eth0 is\\ndown");
    }
}
