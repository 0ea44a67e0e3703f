// The tables. A view is {name, title, items(), key(item), make(item), update(element, item), empty, columns}: to show something more,
// add one to VIEWS.
import { ago, bits, count, el, keyed, mark, pps, put, short, sum, time } from "./dom.js";
import { spark } from "./chart.js";
import { state, unlocked } from "./data.js";

/** Looks that the small line of a rule shows. */
const SPARK_SLOTS = 60;

export const ui = { open: new Set(), sort: "rate", act: () => {} };

const SORTS = {
  rate: (one, other) => other.counts.rate_pps - one.counts.rate_pps || one.id - other.id,
  drops: (one, other) => other.dropped - one.dropped || one.id - other.id,
  name: (one, other) => one.name.localeCompare(other.name),
};

/** Rows in an order that does not jump: rates are compared by their leading digits. */
const steady = (rule) => ({ ...rule, counts: { ...rule.counts, rate_pps: Number(rule.counts.rate_pps.toPrecision(2)) } });

const cell = (name, label, ...rest) => el(`div.cell.${name}`, { role: "cell", "data-label": label }, ...rest);
const at = (row, name) => row.querySelector(`:scope > .line > .${name}, :scope > .${name}`);

function chips(box, drops, errors) {
  const shown = Object.entries(drops).filter(([, value]) => value > 0);
  keyed(box, shown, ([reason]) => reason, () => el("span.chip.bad"), (chip, [reason, value]) => {
    const why = reason === "send_error" ? Object.entries(errors ?? {}).map(([errno, times]) => `${errno} ${short(times)}`).join(", ") : "";
    put(chip, `${reason} ${count(value)}${why ? ` (${why})` : ""}`);
  });
}

/** Senders that an open rule shows; mcrctl stats RULE has more of them. */
const FLOWS_SHOWN = 12;

const WORDS = { active: "active", paused: "paused", unresolved: "unresolved", failed: "failed", disabled: "off" };

const rules = {
  name: "rules", title: "Rules",
  columns: [["name", "Rule", "name"], ["input", "Input"], ["rate num", "Rate", "rate"], ["spark", ""], ["out num", "Copies"], ["drops num", "Drops", "drops"], ["state", "State"]],
  items: () => state.rules.map(steady).sort(SORTS[ui.sort]),
  text: (rule) => `${rule.name} ${rule.input} ${rule.outputs.map((output) => output.output).join(" ")} ${rule.state} ${rule.datapath}`,
  key: (rule) => rule.id,
  empty: "No rules yet. Add one with mcrctl add 239.1.1.1:5000@eth0 239.2.2.2:6000@eth1",
  make(rule) {
    const toggle = el("button.toggle", { type: "button", "aria-expanded": "false", onclick: () => flip(rule.id) }, el("span.chevron", { "aria-hidden": "true" }), el("span.dot"), el("span.text"));
    return el("div.row.rule", { role: "rowgroup", "data-rule": rule.name },
      el("div.line", { role: "row", tabindex: "-1", onclick: (event) => { if (!event.target.closest("button")) flip(rule.id); } },
        cell("name", "", toggle), cell("input mono", "Input"), cell("rate num", "Rate", el("b"), el("small")),
        cell("spark", "", el("svg")), cell("out num", "Copies"), cell("drops num", "Drops"), cell("state", "State", el("span.badge"))),
      el("div.detail", { hidden: true }));
  },
  update(row, rule) {
    mark(row, "data-health", rule.health);
    const open = ui.open.has(rule.id);
    const toggle = row.querySelector(".toggle");
    mark(toggle, "aria-expanded", open);
    put(toggle.querySelector(".text"), rule.name);
    put(at(row, "input"), rule.input);
    const rate = at(row, "rate");
    put(rate.firstElementChild, pps(rule.counts.rate_pps));
    put(rate.lastElementChild, bits(rule.counts.rate_bps));
    spark(at(row, "spark").firstElementChild, rule.rates.slice(-SPARK_SLOTS), SPARK_SLOTS);
    put(at(row, "out"), pps(rule.out));
    put(at(row, "drops"), count(rule.dropped));
    const badge = at(row, "state").firstElementChild;
    put(badge, WORDS[rule.state] ?? rule.state);
    mark(badge, "data-state", rule.state);
    mark(badge, "title", rule.reason);
    const detail = row.querySelector(".detail");
    detail.hidden = !open;
    if (open) outputs(detail, rule);
  },
};

function flip(id) {
  if (!ui.open.delete(id)) ui.open.add(id);
  ui.changed();
}

/** What an open rule shows: why it is as it is, its outputs, and what can be done. */
function outputs(detail, rule) {
  if (!detail.firstElementChild) {
    detail.append(el("p.reason"), el("dl.facts"), el("div.outputs", { role: "table", "aria-label": "Outputs" }),
      el("div.outputs.flows", { role: "table", "aria-label": "Senders" }), el("p.more", { hidden: true }), el("div.actions"));
  }
  const [reason, facts, table, senders, more, actions] = detail.children;
  put(reason, rule.reason ?? "");
  reason.hidden = !rule.reason;
  const seen = rule.counts.last_seen_ns ? ago((state.time - rule.counts.last_seen_ns) / 1e9) : "never";
  const shown = [["Path", rule.datapath ? `${rule.datapath}: ${rule.datapath_reason}` : "none"], ["Worker", rule.datapath === "kernel" ? "none" : rule.worker],
    ["Datagrams", count(rule.counts.datagrams)], ["Bytes", count(rule.counts.bytes)], ["Flows", count(rule.counts.flows)], ["Last datagram", seen],
    ["Longest gap", time(rule.counts.gap_max_ns)], ["Jitter", time(rule.counts.jitter_ns)], ["Latency, median", time(rule.counts.latency?.p50_ns)],
    ["Latency, 99 %", time(rule.counts.latency?.p99_ns)], ["Mean rate", pps(rule.counts.mean_pps ?? 0)]];
  keyed(facts, shown, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd")), (fact, [, value]) => put(fact.lastElementChild, value));
  keyed(table, rule.outputs, (output) => output.output,
    () => el("div.output", { role: "row" }, cell("to mono", "Output"), cell("out num", "Copies", el("b"), el("small")), cell("reasons", "Drops"), cell("why", "")),
    (line, output) => {
      const waits = output.state && output.state.state !== "active" && rule.state !== "disabled";
      mark(line, "data-health", waits ? "warn" : output.dropped > 0 ? "bad" : "good");
      put(at(line, "to"), output.output);
      put(at(line, "out").firstElementChild, pps(output.rate_pps));
      put(at(line, "out").lastElementChild, `${count(output.copies)} in all`);
      chips(at(line, "reasons"), output.drops, output.send_errors);
      put(at(line, "why"), waits ? `${WORDS[output.state.state]}: ${output.state.reason ?? ""}` : "");
    });
  flows(senders, more, state.flows.get(rule.id));
  const verbs = unlocked() ? [rule.enabled ? "disable" : "enable", ...(state.workers.length > 1 ? ["move"] : []), "remove"] : [];
  keyed(actions, verbs, (verb) => verb, (verb) => el(verb === "remove" ? "button.danger" : "button", { type: "button", onclick: () => ui.act(rule.id, verb) }, { enable: "Enable", disable: "Disable", move: "Move to the next worker", remove: "Remove" }[verb]));
}

/** Who sends to an open rule, the most first, and what of it has no line. */
function flows(table, more, list) {
  const all = list?.flows ?? [], shown = all.slice(0, FLOWS_SHOWN);
  table.hidden = shown.length === 0;
  keyed(table, shown, (flow) => flow.source,
    (flow) => el("div.output.flow", { role: "row" }, cell("to mono", "From", flow.source), cell("out num", "Rate", el("b"), el("small")), cell("reasons", "Datagrams"), cell("last", "Last")),
    (line, flow) => {
      put(at(line, "out").firstElementChild, pps(flow.rate_pps));
      put(at(line, "out").lastElementChild, bits(flow.rate_bps));
      put(at(line, "reasons"), `${count(flow.datagrams)} datagrams, ${count(flow.bytes)} bytes`);
      put(at(line, "last"), `last ${ago((state.time - flow.last_seen_ns) / 1e9)}`);
    });
  const hidden = all.length - shown.length + (list?.left_out ?? 0);
  const words = [hidden > 0 ? `${count(hidden)} senders more` : "", list?.overflow_datagrams > 0 ? `${count(list.overflow_datagrams)} datagrams of senders beyond the table` : ""];
  put(more, words.filter(Boolean).join(", "));
  more.hidden = more.textContent === "";
}

/** A view whose rows are lines of text. */
function plain({ columns, ...rest }) {
  return {
    ...rest, columns: columns.map(([name, label]) => [name, label]),
    make: () => el("div.row", { role: "rowgroup" }, el("div.line", { role: "row", tabindex: "-1" }, columns.map(([name, label]) => cell(name.replaceAll(" ", "."), label)))),
    update(row, item) {
      mark(row, "data-health", rest.health(item));
      columns.forEach(([, , value], index) => put(row.firstElementChild.children[index], value(item)));
    },
    text: (item) => columns.map(([, , value]) => value(item)).join(" "),
  };
}

const workers = plain({
  name: "workers", title: "Workers", empty: "No workers.",
  items: () => state.workers.map((worker) => {
    const inputs = state.inputs.filter((input) => input.worker === worker.index);
    const rate = inputs.reduce((all, input) => all + input.rate_pps, 0);
    return { ...worker, rate, drops: inputs.reduce((all, input) => all + sum(input.drops), 0) };
  }),
  key: (worker) => worker.index,
  health: (worker) => (worker.state !== "running" ? "bad" : worker.restarts > 0 ? "warn" : "good"),
  columns: [["name", "Worker", (worker) => worker.index], ["state", "State", (worker) => worker.state], ["num rate", "Takes in", (worker) => pps(worker.rate)],
    ["num drops", "Drops", (worker) => count(worker.drops)], ["num", "Rules", (worker) => count(worker.rules)], ["num", "Sockets", (worker) => count(worker.sockets)],
    ["num", "Core", (worker) => worker.core ?? "any"], ["input", "I/O", (worker) => worker.io ?? ""], ["num", "Restarts", (worker) => count(worker.restarts)],
    ["num", "Process", (worker) => worker.pid ?? ""], ["input", "Plan", (worker) => (worker.applied_generation < worker.desired_generation ? "pending" : "applied")]],
});

const interfaces = plain({
  name: "interfaces", title: "Interfaces", empty: "No interfaces.",
  items: () => [...state.interfaces].sort((one, other) => other.rules - one.rules || one.index - other.index).map((one) => {
    const inputs = state.inputs.filter((input) => input.interface === one.name);
    return { ...one, rate: inputs.reduce((all, input) => all + input.rate_pps, 0), drops: inputs.reduce((all, input) => all + sum(input.drops), 0) };
  }),
  key: (one) => one.index,
  health: (one) => (one.rules === 0 ? "off" : one.up && one.running ? "good" : "bad"),
  columns: [["name", "Interface", (one) => one.name], ["state", "State", (one) => (one.up ? (one.running ? "up" : "no carrier") : "down")], ["num", "Rules", (one) => count(one.rules)],
    ["num rate", "Takes in", (one) => pps(one.rate)], ["num drops", "Drops", (one) => count(one.drops)], ["num", "MTU", (one) => one.mtu],
    ["input", "Kind", (one) => one.kind ?? ""], ["input mono wide", "Addresses", (one) => one.addresses.join(" ")]],
});

const events = plain({
  name: "events", title: "Events", empty: "Nothing has happened since the daemon's control process started.",
  items: () => state.events, key: (event) => event.seq,
  health: (event) => ({ died: "bad", stuck: "bad", failed: "bad", missed: "warn", paused: "warn", unresolved: "warn", down: "warn", removed: "off", disabled: "off" })[event.what] ?? "good",
  columns: [["num when", "Time", (event) => new Date(event.time_ns / 1e6).toLocaleTimeString("en-GB")], ["name", "What", (event) => `${event.kind} ${event.what.replace("_", " ")}`],
    ["input", "Whose", (event) => event.rule ?? event.interface ?? (event.worker === undefined ? "" : `worker ${event.worker}`)],
    ["input wide", "Why", (event) => [event.address, event.count, event.reason].filter(Boolean).join(" ")]],
});

const reflectors = plain({
  name: "reflectors", title: "Reflectors", empty: "No reflectors. Add one with mcrctl reflect add INTERFACE",
  items: () => state.reflectors, key: (one) => one.name,
  health: (one) => (one.state !== "active" || one.fault || one.losing ? "bad" : one.lost > 0 || one.restarts > 0 ? "warn" : "good"),
  columns: [["name", "Reflector", (one) => one.name], ["state", "State", (one) => (one.state === "active" && one.fault ? "unhealthy" : WORDS[one.state] ?? one.state)], ["input", "Interface", (one) => one.interface],
    ["num rate", "Sends back", (one) => pps(one.rate)], ["num", "Reflected", (one) => count(one.counters.reflected)], ["num", "Rejected", (one) => count(sum(one.rejected))],
    ["num drops", "Lost", (one) => count(one.lost)], ["num", "p99", (one) => (one.latency ? `${(one.latency.p99_ns / 1000).toFixed(1)} \u00b5s` : "")],
    ["input wide", "How", (one) => [one.platform, `mode ${one.mode}`, one.reason ?? one.fault].filter(Boolean).join(", ")]],
});

export const VIEWS = [rules, workers, interfaces, events, reflectors];
