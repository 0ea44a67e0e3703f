//! What is known and what the user wants to see of it. Nothing here knows of a terminal or of time.

use std::collections::{HashMap, VecDeque};

use mcr_proto::{
    message::{ReflectView, RuleState},
    rpc::{Event, FlowStats, OutputStats, RuleInfo, RuleStats, Stats},
    rule::RuleId,
};

use crate::feed::{Look, Update};

/// Events that are kept to be shown.
const EVENTS_MAX: usize = 500;
/// Characters of a filter.
pub(crate) const FILTER_CHARS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Rules,
    Workers,
    Interfaces,
    Events,
    Reflectors,
}

impl Tab {
    pub(crate) const ALL: [Self; 5] =
        [Self::Rules, Self::Workers, Self::Interfaces, Self::Events, Self::Reflectors];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rules => "Rules",
            Self::Workers => "Workers",
            Self::Interfaces => "Interfaces",
            Self::Events => "Events",
            Self::Reflectors => "Reflectors",
        }
    }
}

/// What rules are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Rate,
    Drops,
    Name,
    State,
}

impl Sort {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Drops => "drops",
            Self::Name => "name",
            Self::State => "state",
        }
    }
}

/// Whether the daemon is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Daemon {
    Sought,
    There,
    Gone(String),
}

/// What was dropped: in all, and each second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Drops {
    pub(crate) total: u64,
    pub(crate) rate: f64,
}

/// A rule as a line.
#[derive(Debug, Clone)]
pub(crate) struct Row<'a> {
    pub(crate) info: &'a RuleInfo,
    pub(crate) pps: f64,
    pub(crate) bps: f64,
    pub(crate) drops: Drops,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) socket: String,
    pub(crate) daemon: Daemon,
    pub(crate) look: Option<Look>,
    before: Option<Stats>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) tab: Tab,
    pub(crate) sort: Sort,
    pub(crate) reversed: bool,
    pub(crate) filter: String,
    /// The filter is being typed.
    pub(crate) typing: bool,
    /// The rule whose outputs are shown.
    pub(crate) opened: Option<RuleId>,
    selected: Option<RuleId>,
    /// Lines scrolled off, where there is nothing to select.
    pub(crate) scroll: usize,
}

impl Model {
    pub(crate) fn new(socket: String) -> Self {
        Self {
            socket,
            daemon: Daemon::Sought,
            look: None,
            before: None,
            events: VecDeque::new(),
            tab: Tab::Rules,
            sort: Sort::Rate,
            reversed: false,
            filter: String::new(),
            typing: false,
            opened: None,
            selected: None,
            scroll: 0,
        }
    }

    pub(crate) fn update(&mut self, update: Update) {
        match update {
            Update::Look(look) => {
                self.daemon = Daemon::There;
                let old = self.look.replace(*look);
                self.before = old.map(|old| old.stats);
            }
            Update::Gone(why) => self.daemon = Daemon::Gone(why),
            Update::Event(event) => {
                if self.events.len() == EVENTS_MAX {
                    self.events.pop_front();
                }
                self.events.push_back(*event);
            }
        }
    }

    /// The rules that the filter lets through, in order.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let Some(look) = &self.look else { return Vec::new() };
        let stats: HashMap<RuleId, &RuleStats> =
            look.stats.rules.iter().map(|rule| (rule.id, rule)).collect();
        let before = self.before.as_ref();
        let earlier: HashMap<RuleId, &RuleStats> =
            before.into_iter().flat_map(|stats| &stats.rules).map(|rule| (rule.id, rule)).collect();
        let seconds = before.map_or(0.0, |before| seconds_between(before, &look.stats));
        let row = |info: &'_ RuleInfo| {
            let stats = stats.get(&info.id);
            let total = stats.map_or(0, |stats| dropped(stats));
            let old = earlier.get(&info.id).map_or(total, |stats| dropped(stats));
            Drops { total, rate: rate(old, total, seconds) }
        };
        let mut rows: Vec<_> = look
            .rules
            .iter()
            .filter(|info| self.lets_through(info))
            .map(|info| Row {
                info,
                pps: stats.get(&info.id).map_or(0.0, |stats| stats.rate_pps),
                bps: stats.get(&info.id).map_or(0.0, |stats| stats.rate_bps),
                drops: row(info),
            })
            .collect();
        rows.sort_by(|one, other| self.order(one, other).then_with(|| one.info.name.cmp(&other.info.name)));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    fn order(&self, one: &Row<'_>, other: &Row<'_>) -> std::cmp::Ordering {
        match self.sort {
            Sort::Rate => other.pps.total_cmp(&one.pps),
            Sort::Drops => {
                other.drops.rate.total_cmp(&one.drops.rate).then(other.drops.total.cmp(&one.drops.total))
            }
            Sort::Name => std::cmp::Ordering::Equal,
            // Those that do not relay first.
            Sort::State => {
                (one.info.state == RuleState::Active).cmp(&(other.info.state == RuleState::Active))
            }
        }
    }

    fn lets_through(&self, rule: &RuleInfo) -> bool {
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        wanted.is_empty()
            || has(rule.name.as_str())
            || has(&rule.input)
            || has(&rule.state.to_string())
            || rule.outputs.iter().any(|output| has(output))
    }

    /// The outputs of a rule with what each dropped.
    pub(crate) fn outputs(&self, rule: RuleId) -> Vec<(&OutputStats, Drops)> {
        let find = |stats: &'_ Stats| stats.rules.iter().position(|stats| stats.id == rule);
        let Some(look) = &self.look else { return Vec::new() };
        let Some(now) = find(&look.stats).map(|index| &look.stats.rules[index]) else { return Vec::new() };
        let before = self.before.as_ref();
        let old = before.and_then(|stats| find(stats).map(|index| &stats.rules[index]));
        let seconds = before.map_or(0.0, |before| seconds_between(before, &look.stats));
        let outputs = now.outputs.iter().enumerate().map(|(index, output)| {
            let total = output.drops.values().sum();
            let earlier = old.and_then(|old| old.outputs.get(index));
            let earlier = earlier.map_or(total, |output| output.drops.values().sum());
            (output, Drops { total, rate: rate(earlier, total, seconds) })
        });
        outputs.collect()
    }

    /// Who sends to a rule, as far as it is known.
    pub(crate) fn flows(&self, rule: RuleId) -> &[FlowStats] {
        let rules = self.look.iter().flat_map(|look| &look.stats.rules);
        let list = rules.filter(|stats| stats.id == rule).find_map(|stats| stats.flow_list.as_ref());
        list.map_or(&[], |list| &list.flows)
    }

    /// What inputs dropped.
    pub(crate) fn input_drops(&self) -> Drops {
        let sum = |stats: &Stats| stats.inputs.iter().flat_map(|input| input.drops.values()).sum::<u64>();
        let Some(look) = &self.look else { return Drops::default() };
        let total = sum(&look.stats);
        let before = self.before.as_ref();
        let seconds = before.map_or(0.0, |before| seconds_between(before, &look.stats));
        Drops { total, rate: rate(before.map_or(total, sum), total, seconds) }
    }

    /// The reflectors, with the frames each sends back a second and what it lost.
    pub(crate) fn reflectors(&self) -> Vec<(&ReflectView, f64, Drops)> {
        let Some(look) = &self.look else { return Vec::new() };
        let before = self.before.as_ref();
        let seconds = before.map_or(0.0, |before| seconds_between(before, &look.stats));
        let each = look.stats.reflectors.iter().map(|now| {
            let old = before.and_then(|stats| stats.reflectors.iter().find(|old| old.name == now.name));
            let old = old.unwrap_or(now);
            let reflected = rate(counted(old, &["reflected"]), counted(now, &["reflected"]), seconds);
            let total = counted(now, &LOST);
            (now, reflected, Drops { total, rate: rate(counted(old, &LOST), total, seconds) })
        });
        each.collect()
    }

    /// The place of the selected rule among `rows`; the first where it is not among them.
    pub(crate) fn selected_place(&self, rows: &[Row<'_>]) -> usize {
        rows.iter().position(|row| Some(row.info.id) == self.selected).unwrap_or(0)
    }

    /// Selects the rule `steps` further down or up.
    pub(crate) fn move_selection(&mut self, steps: isize) {
        let rows = self.rows();
        let place = self.selected_place(&rows).saturating_add_signed(steps).min(rows.len().saturating_sub(1));
        self.selected = rows.get(place).map(|row| row.info.id);
    }

    /// Shows the outputs of the selected rule.
    pub(crate) fn open(&mut self) {
        let rows = self.rows();
        self.opened = rows.get(self.selected_place(&rows)).map(|row| row.info.id);
        self.selected = self.opened;
        self.scroll = 0;
    }
}

/// Frames of a reflector that were lost on their way in or back.
const LOST: [&str; 4] = ["tx_full", "tx_error", "rx_ring_drop", "rx_invalid_desc"];

fn counted(reflector: &ReflectView, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| reflector.counters.get(*name)).sum()
}

fn dropped(rule: &RuleStats) -> u64 {
    rule.outputs.iter().flat_map(|output| output.drops.values()).sum()
}

fn seconds_between(before: &Stats, now: &Stats) -> f64 {
    now.time_ns.saturating_sub(before.time_ns) as f64 / 1e9
}

fn rate(old: u64, new: u64, seconds: f64) -> f64 {
    // Counters of a rule that was made anew begin at zero again.
    if seconds <= 0.0 { 0.0 } else { new.saturating_sub(old) as f64 / seconds }
}
