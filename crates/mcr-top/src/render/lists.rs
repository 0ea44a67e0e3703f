//! Workers, interfaces, reflectors, events.

use mcr_proto::{
    message::{EventKind, EventWhat, RuleState, WorkerState},
    rpc::Event,
};
use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::Style,
    text::Line,
    widgets::{Paragraph, Row, Table},
};

use super::{BAD, BOLD, DIM, GOOD, NARROW, WARN};
use crate::{
    model::Model,
    text::{human, time},
};

fn table<'a>(
    rows: impl IntoIterator<Item = Row<'a>>,
    columns: &[(&'static str, Constraint)],
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let head = Row::new(columns.iter().map(|(name, _)| *name)).style(BOLD);
    let widths = columns.iter().map(|(_, width)| *width);
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(1), area);
}

pub(super) fn workers(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let workers = model.look.as_ref().map(|look| look.workers.as_slice()).unwrap_or_default();
    let narrow = area.width < NARROW;
    let rows = workers.iter().skip(model.scroll).map(|worker| {
        let (state, style) = match worker.state {
            WorkerState::Running => ("running", GOOD),
            WorkerState::Starting => ("starting", WARN),
            WorkerState::Backoff => ("backoff", BAD),
        };
        let text = |value: Option<String>| Line::from(value.unwrap_or_else(|| "-".into()));
        let restarts = if worker.restarts > 0 { WARN } else { Style::new() };
        let behind = worker.applied_generation != worker.desired_generation;
        let plan = if behind { "behind" } else { "applied" };
        let mut cells = vec![
            Line::from(worker.index.to_string()),
            Line::styled(state, style),
            Line::from(worker.rules.to_string()),
            Line::styled(worker.restarts.to_string(), restarts),
        ];
        if !narrow {
            cells.push(text(worker.pid.map(|pid| pid.to_string())));
            cells.push(text(worker.core.map(|core| core.to_string())));
            cells.push(text(worker.io.map(|io| format!("{io:?}").to_lowercase())));
            cells.push(Line::from(worker.sockets.to_string()));
            cells.push(Line::styled(plan, if behind { WARN } else { Style::new() }));
        }
        Row::new(cells)
    });
    let columns = [
        ("WORKER", Constraint::Length(6)),
        ("STATE", Constraint::Length(9)),
        ("RULES", Constraint::Length(6)),
        ("RESTARTS", Constraint::Length(8)),
        ("PID", Constraint::Length(8)),
        ("CORE", Constraint::Length(5)),
        ("IO", Constraint::Length(9)),
        ("SOCKETS", Constraint::Length(7)),
        ("PLAN", Constraint::Fill(1)),
    ];
    table(rows, if narrow { &columns[..4] } else { &columns }, frame, area);
}

pub(super) fn interfaces(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let interfaces = model.look.as_ref().map(|look| look.interfaces.as_slice()).unwrap_or_default();
    let narrow = area.width < NARROW;
    let rows = interfaces.iter().skip(model.scroll).map(|interface| {
        let (state, style) = match (interface.up, interface.running) {
            (true, true) => ("up", GOOD),
            (true, false) => ("no carrier", WARN),
            _ => ("down", if interface.rules > 0 { BAD } else { DIM }),
        };
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        let mut cells = vec![
            Line::from(interface.name.clone()),
            Line::styled(state, style),
            Line::from(interface.rules.to_string()),
        ];
        if !narrow {
            cells.push(Line::from(interface.mtu.to_string()));
            cells.push(Line::from(interface.kind.clone().unwrap_or_else(|| "-".into())));
            cells.push(Line::from(addresses.join(" ")));
        }
        Row::new(cells)
    });
    let columns = [
        ("INTERFACE", Constraint::Length(15)),
        ("STATE", Constraint::Length(10)),
        ("RULES", Constraint::Length(6)),
        ("MTU", Constraint::Length(6)),
        ("KIND", Constraint::Length(9)),
        ("ADDRESSES", Constraint::Fill(1)),
    ];
    table(rows, if narrow { &columns[..3] } else { &columns }, frame, area);
}

/// Those that do not reflect say why in place of their figures.
pub(super) fn reflectors(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let reflectors = model.reflectors();
    if reflectors.is_empty() {
        let text = "No reflectors; `mcrctl reflect add INTERFACE` makes one.";
        frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        return;
    }
    let narrow = area.width < NARROW;
    let rows = reflectors.iter().skip(model.scroll).map(|(reflector, pps, lost)| {
        let (state, style) = match reflector.state {
            RuleState::Active if reflector.fault.is_some() => ("unhealthy".to_owned(), BAD),
            RuleState::Active => (RuleState::Active.to_string(), GOOD),
            RuleState::Failed => (RuleState::Failed.to_string(), BAD),
            other => (other.to_string(), WARN),
        };
        let rejected: u64 = reflector.rejected.values().sum();
        let loss = if lost.rate > 0.0 { BAD } else { Style::new() };
        let mut cells = vec![
            Line::from(reflector.name.clone()),
            Line::styled(state, style),
            Line::from(human(pps.round())),
            Line::styled(human(lost.total as f64), loss),
        ];
        if !narrow {
            let p99 =
                reflector.latency.map(|latency| format!("{}us", human((latency.p99_ns / 1_000) as f64)));
            // What is wrong is in place of what it is by.
            let how = reflector.fault.as_ref().or(reflector.platform.as_ref()).or(reflector.reason.as_ref());
            cells.push(Line::from(human(rejected as f64)));
            cells.push(Line::from(p99.unwrap_or_else(|| "-".into())));
            cells.push(Line::from(reflector.interface.to_string()));
            cells.push(Line::from(how.map_or_else(|| "-".into(), Clone::clone)));
        }
        Row::new(cells)
    });
    let columns = [
        ("REFLECTOR", Constraint::Length(16)),
        ("STATE", Constraint::Length(10)),
        ("FRAMES/S", Constraint::Length(8)),
        ("LOST", Constraint::Length(6)),
        ("REJECTED", Constraint::Length(8)),
        ("P99", Constraint::Length(7)),
        ("INTERFACE", Constraint::Length(10)),
        ("PLATFORM", Constraint::Fill(1)),
    ];
    table(rows, if narrow { &columns[..4] } else { &columns }, frame, area);
}

/// The newest first; scrolling goes back in time.
pub(super) fn events(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if model.events.is_empty() {
        let text = "Nothing has happened since this view began.";
        frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        return;
    }
    let lines = model.events.iter().rev().skip(model.scroll).take(usize::from(area.height)).map(line);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn line(event: &Event) -> Line<'static> {
    let subject = match event.kind {
        EventKind::Rule => event.rule.as_ref().map(ToString::to_string),
        EventKind::Interface => event.interface.clone(),
        EventKind::Worker => event.worker.map(|worker| worker.to_string()),
        EventKind::Missed => event.count.map(|count| count.to_string()),
    };
    let mut text = format!(
        "{} {} {} {}",
        time(event.time_ns),
        event.kind,
        subject.unwrap_or_else(|| "-".into()),
        event.what
    );
    if let Some(address) = event.address {
        text += &format!(" {address}");
    }
    if let Some(reason) = &event.reason {
        text += &format!(": {reason}");
    }
    let style = match event.what {
        EventWhat::Died | EventWhat::Stuck | EventWhat::Failed | EventWhat::Missed => BAD,
        EventWhat::Paused | EventWhat::Unresolved | EventWhat::Down => WARN,
        EventWhat::Active | EventWhat::Ready => GOOD,
        _ => Style::new(),
    };
    Line::styled(text, style)
}
