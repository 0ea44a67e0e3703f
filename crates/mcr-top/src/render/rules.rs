//! The rules, and the outputs of one.

use mcr_proto::{
    message::RuleState,
    rule::{Datapath, RuleId},
};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Row as Cells, Table},
};

use super::{BAD, BOLD, DIM, GOOD, NARROW, WARN, drop_style, window};
use crate::{
    model::{Model, Row},
    text::human,
};

fn state_style(state: RuleState) -> Style {
    match state {
        RuleState::Active => GOOD,
        RuleState::Disabled => DIM,
        RuleState::Failed => BAD,
        _ => WARN,
    }
}

fn number(text: String, style: Style) -> Line<'static> {
    Line::styled(text, style).right_aligned()
}

pub(super) fn list(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let rows = model.rows();
    if rows.is_empty() {
        let text = match &model.filter[..] {
            "" => "No rules. Add one with `mcrctl add INPUT OUTPUT...`",
            _ => "No rule matches the filter.",
        };
        frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        return;
    }
    let narrow = area.width < NARROW;
    let place = model.selected_place(&rows);
    let below_head = Rect { height: area.height.saturating_sub(1), ..area };
    let shown = window(rows.len(), place, below_head);
    let cells = rows[shown.clone()].iter().zip(shown).map(|(row, index)| {
        let style = if index == place { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        cells(row, narrow).style(style)
    });
    let (head, widths): (Vec<_>, Vec<_>) = if narrow {
        let widths =
            [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(6), Constraint::Length(6)];
        (vec!["RULE", "STATE", "PPS", "DROP/S"], widths.to_vec())
    } else {
        let widths = [
            Constraint::Fill(2),
            Constraint::Length(10),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(3),
            Constraint::Fill(3),
        ];
        (vec!["RULE", "STATE", "PPS", "BIT/S", "DROP/S", "DROPPED", "OUT", "INPUT"], widths.to_vec())
    };
    let head = head.into_iter().map(|name| match name {
        "PPS" | "BIT/S" | "DROP/S" | "DROPPED" | "OUT" => Line::from(name).right_aligned(),
        _ => Line::from(name),
    });
    let table = Table::new(cells, widths).header(Cells::new(head).style(BOLD)).column_spacing(1);
    frame.render_widget(table, area);
}

fn cells(row: &Row<'_>, narrow: bool) -> Cells<'static> {
    let Row { info, pps, bps, drops } = row;
    let style = drop_style(*drops);
    let name_style = if drops.rate > 0.0 { BAD } else { Style::new() };
    let name = Line::styled(info.name.to_string(), name_style);
    let pps = number(human(pps.round()), Style::new());
    let rate = number(human(drops.rate.round()), style);
    let state = info.state.to_string();
    if narrow {
        let state: String = state.chars().take(6).collect();
        return Cells::new([name, Line::styled(state, state_style(info.state)), pps, rate]);
    }
    Cells::new([
        name,
        Line::styled(state, state_style(info.state)),
        pps,
        number(human(bps.round()), Style::new()),
        rate,
        number(human(drops.total as f64), style),
        number(info.outputs.len().to_string(), Style::new()),
        Line::from(info.input.clone()),
    ])
}

pub(super) fn opened(model: &Model, rule: RuleId, frame: &mut Frame<'_>, area: Rect) {
    let info = model.look.as_ref().and_then(|look| look.rules.iter().find(|info| info.id == rule));
    let Some(info) = info else {
        frame.render_widget(Paragraph::new("The rule is gone."), area);
        return;
    };
    let [head, body] = Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(area);
    let path = match info.datapath {
        None => "no path".to_owned(),
        // No worker sees its datagrams.
        Some(Datapath::Kernel) => Datapath::Kernel.to_string(),
        Some(path) => format!("{path}, worker {}", info.worker),
    };
    let mut first = vec![
        Span::styled(info.name.to_string(), BOLD),
        Span::raw("  "),
        Span::styled(info.state.to_string(), state_style(info.state)),
        Span::raw(format!("  {path}")),
    ];
    if let Some(reason) = &info.reason {
        first.push(Span::styled(format!("  {reason}"), WARN));
    }
    let lines = vec![Line::from(first), Line::raw(format!("from {}", info.input))];
    frame.render_widget(Paragraph::new(lines), head);
    // The outputs and the flows scroll as one list.
    let above = model.outputs(rule).len().saturating_sub(model.scroll);
    let flows_below = usize::from(!model.flows(rule).is_empty()) * 2;
    let most = usize::from(body.height).saturating_sub(flows_below);
    let outputs_height = Constraint::Length(if above == 0 { 0 } else { (above + 1).min(most.max(1)) as u16 });
    let [first, _, second] =
        Layout::vertical([outputs_height, Constraint::Length(u16::from(above > 0)), Constraint::Min(0)])
            .areas(body);
    if above > 0 {
        outputs(model, info, frame, first);
    }
    flows(model, rule, frame, second);
}

/// Who sends, the busiest first.
fn flows(model: &Model, rule: RuleId, frame: &mut Frame<'_>, area: Rect) {
    let (flows, now_ns) = (model.flows(rule), model.look.as_ref().map_or(0, |look| look.stats.time_ns));
    if flows.is_empty() {
        return;
    }
    let narrow = area.width < NARROW;
    let skipped = model.scroll.saturating_sub(model.outputs(rule).len());
    let rows = flows.iter().skip(skipped).map(|flow| {
        let count = |value: f64| number(human(value), Style::new());
        let mut cells = vec![Line::from(flow.source.to_string()), count(flow.rate_pps.round())];
        if !narrow {
            let idle = now_ns.saturating_sub(flow.last_seen_ns) as f64 / 1e9;
            let idle = if idle < 1.5 { "now".to_owned() } else { format!("{}s", human(idle.round())) };
            cells.extend([
                count(flow.rate_bps.round()),
                count(flow.datagrams as f64),
                number(idle, Style::new()),
            ]);
        }
        Cells::new(cells)
    });
    let numeric = |name: &'static str| Line::from(name).right_aligned();
    let mut head = vec![Line::from("FLOW FROM"), numeric("PPS")];
    let mut widths = vec![Constraint::Fill(1), Constraint::Length(7)];
    if !narrow {
        head.extend([numeric("BIT/S"), numeric("DATAGRAMS"), numeric("LAST")]);
        widths.extend([Constraint::Length(7), Constraint::Length(9), Constraint::Length(8)]);
    }
    let table = Table::new(rows, widths).header(Cells::new(head).style(BOLD)).column_spacing(1);
    frame.render_widget(table, area);
}

fn outputs(model: &Model, info: &mcr_proto::rpc::RuleInfo, frame: &mut Frame<'_>, area: Rect) {
    let narrow = area.width < NARROW;
    let outputs = model.outputs(info.id);
    let rows = outputs.iter().zip(info.output_states.iter().map(Some).chain(std::iter::repeat(None)));
    let rows = rows.skip(model.scroll).map(|((output, drops), state)| {
        let state = state.map_or(info.state, |state| state.state);
        let by_reason = output.drops.iter().filter(|(_, count)| **count > 0);
        let by_reason: Vec<_> =
            by_reason.map(|(reason, count)| format!("{reason} {}", human(*count as f64))).collect();
        let name_style = if state == RuleState::Active { Style::new() } else { state_style(state) };
        let mut cells = vec![
            Line::styled(output.output.clone(), name_style),
            number(human(output.rate_pps.round()), Style::new()),
            number(human(drops.rate.round()), drop_style(*drops)),
        ];
        if !narrow {
            cells.insert(2, number(human(output.copies as f64), Style::new()));
            cells.push(Line::styled(by_reason.join(", "), drop_style(*drops)));
        }
        Cells::new(cells)
    });
    let numeric = |name: &'static str| Line::from(name).right_aligned();
    let (head, widths): (Vec<Line<'_>>, Vec<_>) = if narrow {
        let widths = [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(6)];
        (vec![Line::from("OUTPUT"), numeric("PPS"), numeric("DROP/S")], widths.to_vec())
    } else {
        let widths = [
            Constraint::Fill(3),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Fill(2),
        ];
        let head = vec![
            Line::from("OUTPUT"),
            numeric("PPS"),
            numeric("COPIES"),
            numeric("DROP/S"),
            Line::from("DROPPED"),
        ];
        (head, widths.to_vec())
    };
    let table = Table::new(rows, widths).header(Cells::new(head).style(BOLD)).column_spacing(1);
    frame.render_widget(table, area);
}
