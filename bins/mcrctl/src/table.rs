//! Lists as tables without lines, so that they can be cut by columns.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use mcr_proto::{
    message::RuleState,
    rpc::{InterfaceInfo, RuleInfo, WorkerInfo},
    rule::DatapathChoice,
};

use crate::text::{io_choice, or_dash, worker_state};

/// How a column is aligned: text to the left, numbers to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Writes rows under a header. A cell may have several lines.
pub(crate) fn write_table(out: &mut dyn Write, columns: &[Column], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    table.add_rows(rows);
    for (index, kind) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if matches!(kind, Column::Number(_)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    writeln!(out, "{}", table.trim_fmt())
}

pub(crate) fn rules(out: &mut dyn Write, rules: &[RuleInfo]) -> io::Result<()> {
    use Column::{Number, Text};
    let columns = [
        Number("ID"),
        Text("NAME"),
        Text("STATE"),
        Text("PATH"),
        Number("WORKER"),
        Text("INPUT"),
        Text("OUTPUTS"),
        Text("WHY"),
    ];
    write_table(out, &columns, rules.iter().map(rule_row).collect())
}

fn rule_row(rule: &RuleInfo) -> Vec<String> {
    vec![
        rule.id.to_string(),
        rule.name.to_string(),
        rule.state.to_string(),
        or_dash(rule.datapath),
        rule.worker.to_string(),
        rule.input.clone(),
        outputs(rule).join("\n"),
        // A rule that does not relay is explained by its state, one that does by the way it takes.
        rule.reason.clone().unwrap_or_else(|| rule.datapath_reason.clone()),
    ]
}

/// The outputs, each with its state where that is worse than the rule's.
fn outputs(rule: &RuleInfo) -> Vec<String> {
    let states = rule.output_states.iter().map(Some).chain(std::iter::repeat(None));
    rule.outputs
        .iter()
        .zip(states)
        .map(|(output, state)| match state {
            Some(state) if state.state != rule.state && state.state != RuleState::Active => {
                format!("{output} ({})", state.state)
            }
            _ => output.clone(),
        })
        .collect()
}

/// One rule in full, a line for each thing.
pub(crate) fn rule(out: &mut dyn Write, rule: &RuleInfo) -> io::Result<()> {
    let because = |state: &str, reason: &Option<String>| match reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    };
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<9} {value}");
    line("id", &rule.id.to_string())?;
    line("name", rule.name.as_str())?;
    line("state", &because(&rule.state.to_string(), &rule.reason))?;
    line("enabled", if rule.enabled { "yes" } else { "no" })?;
    line("worker", &rule.worker.to_string())?;
    let path = match rule.datapath_wanted {
        DatapathChoice::Auto => format!("{} (auto: {})", or_dash(rule.datapath), rule.datapath_reason),
        // Taken, it needs no reason.
        wanted if rule.datapath.is_some() => format!("{wanted} (asked for)"),
        wanted => format!("- ({wanted} asked for: {})", rule.datapath_reason),
    };
    line("datapath", &path)?;
    if rule.swallowed {
        line("stack", "kept from it: nothing else on this host wants its datagrams")?;
    }
    if let Some(class) = &rule.class {
        line("class", class)?;
    }
    line("input", &rule.input)?;
    for (index, output) in rule.outputs.iter().enumerate() {
        match rule.output_states.get(index) {
            Some(state) => {
                line("output", &format!("{output}  {}", because(&state.state.to_string(), &state.reason)))?
            }
            None => line("output", output)?,
        }
    }
    Ok(())
}

pub(crate) fn workers(out: &mut dyn Write, workers: &[WorkerInfo]) -> io::Result<()> {
    use Column::{Number, Text};
    let columns = [
        Number("WORKER"),
        Number("PID"),
        Text("STATE"),
        Number("CORE"),
        Text("IO"),
        Number("RESTARTS"),
        Number("RULES"),
        Number("SOCKETS"),
        Text("PLAN"),
    ];
    let row = |worker: &WorkerInfo| {
        let plan = match (worker.applied_generation, worker.desired_generation) {
            (applied, desired) if applied == desired => applied.to_string(),
            (applied, desired) => format!("{applied}, {desired} to come"),
        };
        vec![
            worker.index.to_string(),
            or_dash(worker.pid),
            worker_state(worker.state).into(),
            or_dash(worker.core),
            or_dash(worker.io.map(io_choice)),
            worker.restarts.to_string(),
            worker.rules.to_string(),
            worker.sockets.to_string(),
            plan,
        ]
    };
    write_table(out, &columns, workers.iter().map(row).collect())
}

pub(crate) fn interfaces(out: &mut dyn Write, interfaces: &[InterfaceInfo]) -> io::Result<()> {
    use Column::{Number, Text};
    let columns = [
        Number("INDEX"),
        Text("NAME"),
        Text("STATE"),
        Text("MULTICAST"),
        Number("MTU"),
        Text("KIND"),
        Text("MAC"),
        Number("RULES"),
        Text("ADDRESSES"),
    ];
    let row = |interface: &InterfaceInfo| {
        let state = match (interface.up, interface.running) {
            (true, true) => "up",
            (true, false) => "no carrier",
            (false, _) => "down",
        };
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        vec![
            interface.index.to_string(),
            interface.name.clone(),
            state.into(),
            if interface.multicast { "yes" } else { "no" }.into(),
            interface.mtu.to_string(),
            or_dash(interface.kind.as_ref()),
            or_dash(interface.mac.as_ref()),
            interface.rules.to_string(),
            if addresses.is_empty() { "-".into() } else { addresses.join("\n") },
        ]
    };
    write_table(out, &columns, interfaces.iter().map(row).collect())
}
