//! The model as a screen. A function of both: the same model at the same size is the same picture.

mod lists;
mod rules;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use crate::{
    model::{Daemon, Drops, Model, Tab},
    text::human,
};

/// Below this many columns only what matters most is shown.
const NARROW: u16 = 60;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);
const WARN: Style = Style::new().fg(Color::Yellow);
const GOOD: Style = Style::new().fg(Color::Green);

pub(crate) fn render(model: &Model, frame: &mut Frame<'_>) {
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)];
    let [summary, tabs, body, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(summarise(model, summary.width), summary);
    frame.render_widget(tab_line(model), tabs);
    if model.look.is_none() {
        frame.render_widget(waiting(model), body);
    } else {
        match model.tab {
            Tab::Rules => match model.opened {
                Some(rule) => rules::opened(model, rule, frame, body),
                None => rules::list(model, frame, body),
            },
            Tab::Workers => lists::workers(model, frame, body),
            Tab::Interfaces => lists::interfaces(model, frame, body),
            Tab::Events => lists::events(model, frame, body),
            Tab::Reflectors => lists::reflectors(model, frame, body),
        }
    }
    frame.render_widget(foot_line(model), foot);
}

fn summarise(model: &Model, width: u16) -> Line<'static> {
    let Some(look) = &model.look else { return Line::styled("mcr", BOLD) };
    let sum = |of: &dyn Fn(&mcr_proto::rpc::RuleStats) -> f64| look.stats.rules.iter().map(of).sum::<f64>();
    let (pps, bps) = (sum(&|rule| rule.rate_pps), sum(&|rule| rule.rate_bps));
    let outputs: f64 = model.rows().iter().map(|row| row.drops.rate).sum();
    let drops = model.input_drops().rate + outputs;
    let mut spans = vec![
        Span::styled("mcr", BOLD),
        Span::raw(format!("  {} rules  {} pps", look.rules.len(), human(pps.round()))),
    ];
    if width >= NARROW {
        spans.push(Span::raw(format!("  {}bit/s", human(bps.round()))));
    }
    let style = if drops > 0.0 { BAD } else { Style::new() };
    spans.push(Span::styled(format!("  {} drops/s", human(drops.round())), style));
    Line::from(spans)
}

fn tab_line(model: &Model) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, tab) in (1..).zip(Tab::ALL) {
        let style = if tab == model.tab { Style::new().add_modifier(Modifier::REVERSED) } else { DIM };
        spans.push(Span::styled(format!(" {number} {} ", tab.name()), style));
    }
    Line::from(spans)
}

fn waiting(model: &Model) -> Paragraph<'static> {
    let text = match &model.daemon {
        Daemon::Gone(_) => "No daemon yet; it is tried again until it is there.".to_owned(),
        _ => format!("Asking the daemon at {} ...", model.socket),
    };
    Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true })
}

fn foot_line(model: &Model) -> Line<'static> {
    if model.typing {
        return Line::from(vec![Span::styled("filter: ", BOLD), Span::raw(format!("{}_", model.filter))]);
    }
    if let Daemon::Gone(why) = &model.daemon {
        return Line::styled(format!("daemon gone, reconnecting: {why}"), BAD);
    }
    let keys = match (model.tab, model.opened) {
        (Tab::Rules, Some(_)) => "esc back  j/k scroll  q quit".to_owned(),
        (Tab::Rules, None) => {
            let filter = if model.filter.is_empty() { String::new() } else { format!("[{}] ", model.filter) };
            format!("{filter}enter outputs  / filter  sort r/d/n/s ({})  i invert  q quit", model.sort.name())
        }
        _ => "tab next  j/k scroll  q quit".to_owned(),
    };
    Line::styled(keys, DIM)
}

/// Red while it goes on, yellow when it has been.
fn drop_style(drops: Drops) -> Style {
    match drops {
        Drops { rate, .. } if rate > 0.0 => BAD,
        Drops { total: 1.., .. } => WARN,
        _ => Style::new(),
    }
}

/// The part of a list that fits, with `place` in it.
fn window(count: usize, place: usize, area: Rect) -> std::ops::Range<usize> {
    let room = usize::from(area.height);
    let first = (place + 1).saturating_sub(room);
    first..count.min(first + room)
}

#[cfg(test)]
mod tests;
