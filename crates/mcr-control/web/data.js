// What the server says, and what follows from it: no element is touched here.
import { sum } from "./dom.js";

/** Looks kept for charts, a second apart. */
export const SLOTS = 120;
/** For how many looks a drop makes a rule red. */
const RED_LOOKS = 60;
const EVENTS_MAX = 200;
/** Counters of a reflector's frames that were lost on their way in or back. */
const LOST = ["tx_full", "tx_error", "rx_ring_drop", "rx_invalid_desc"];

export const state = {
  rules: [], workers: [], interfaces: [], inputs: [], reflectors: [], events: [],
  totals: { in: 0, bits: 0, out: 0, drops: 0 }, series: { in: [], out: [], drops: [] },
  history: new Map(), flows: new Map(), version: null, problem: "connecting", time: 0,
};

let token = sessionStorage.getItem("mcr-token");
let before = null;

export const unlocked = () => token !== null;

/** Asks for JSON; an error of the server's becomes an `Error` with its words. */
async function ask(path, options = {}) {
  const response = await fetch(`/api/${path}`, { ...options, signal: AbortSignal.timeout(10000) });
  const text = await response.text();
  let body = {};
  try { body = text ? JSON.parse(text) : {}; } catch { body = {}; }
  if (!response.ok) throw Object.assign(new Error(body.error?.message ?? `${response.status} ${response.statusText}`), { status: response.status });
  return body;
}

export async function look() {
  if (!state.version) state.version = await ask("version");
  const [rules, stats, workers, interfaces] = await Promise.all(["rules", "stats", "workers", "interfaces"].map((path) => ask(path)));
  state.problem = null;
  state.workers = workers.workers;
  state.interfaces = interfaces.interfaces;
  take(rules.rules, stats);
}

/** Asks who sends to these rules; those that are gone meanwhile are left out. */
export async function look_at(ids) {
  const answers = await Promise.allSettled(ids.map((id) => ask(`stats/${id}`)));
  state.flows = new Map(answers.filter((answer) => answer.status === "fulfilled")
    .flatMap((answer) => answer.value.rules).map((rule) => [rule.id, rule.flow_list]));
}

/** Joins rules and counters, and appends to what the charts show. */
function take(rules, stats) {
  const counters = new Map(stats.rules.map((rule) => [rule.id, rule]));
  const seconds = before ? (stats.time_ns - before.time) / 1e9 : 0;
  const same = before && seconds <= 0;
  const totals = { in: 0, bits: 0, out: 0, drops: 0 };
  const now = { time: stats.time_ns, drops: new Map() };
  state.time = stats.time_ns;
  state.rules = rules.map((rule) => {
    const found = counters.get(rule.id);
    const counts = found ?? { datagrams: 0, bytes: 0, flows: 0, rate_pps: 0, rate_bps: 0, last_seen_ns: null, outputs: [] };
    const outputs = counts.outputs.map((output, index) => ({ ...output, state: rule.output_states[index], dropped: sum(output.drops) }));
    const dropped = outputs.reduce((all, output) => all + output.dropped, 0);
    const out = outputs.reduce((all, output) => all + output.rate_pps, 0);
    const past = state.history.get(rule.id) ?? { rates: [], red: 0, dropped };
    const more = dropped - past.dropped;
    if (!same) {
      past.rates = [...past.rates, counts.rate_pps].slice(-SLOTS);
      past.red = more > 0 ? RED_LOOKS : Math.max(0, past.red - 1);
    }
    past.dropped = dropped;
    state.history.set(rule.id, past);
    now.drops.set(rule.id, dropped);
    totals.in += counts.rate_pps;
    totals.bits += counts.rate_bps;
    totals.out += out;
    return { ...rule, counts, outputs, dropped, out, rates: past.rates, health: health(rule, outputs, dropped, past.red) };
  });
  for (const id of state.history.keys()) if (!now.drops.has(id)) state.history.delete(id);
  state.inputs = stats.inputs;
  now.reflectors = new Map();
  const reflectors = (stats.reflectors ?? []).map((one) => {
    const lost = LOST.reduce((all, name) => all + (one.counters[name] ?? 0), 0);
    const old = before?.reflectors.get(one.name) ?? { reflected: one.counters.reflected, lost };
    now.reflectors.set(one.name, { reflected: one.counters.reflected, lost });
    const rate = seconds > 0 ? Math.max(0, one.counters.reflected - old.reflected) / seconds : 0;
    return { ...one, lost, rate, losing: lost > old.lost };
  });
  // A document that is seen twice has no rates.
  if (!same) state.reflectors = reflectors;
  const dropsOf = (all, drops) => all + drops;
  now.all = [...now.drops.values()].reduce(dropsOf, 0) + stats.inputs.reduce((all, input) => all + sum(input.drops), 0);
  if (!same) {
    totals.drops = before && seconds > 0 ? Math.max(0, now.all - before.all) / seconds : 0;
    totals.allDrops = now.all;
    state.totals = totals;
    for (const name of ["in", "out", "drops"]) state.series[name] = [...state.series[name], totals[name]].slice(-SLOTS);
    before = now;
  }
}

/** bad: it does not do what it should, now. warn: it dropped before, or an output waits. off: nobody wants it. */
function health(rule, outputs, dropped, red) {
  if (rule.state === "disabled") return "off";
  if (rule.state !== "active" || red > 0) return "bad";
  if (dropped > 0 || outputs.some((output) => output.state && output.state.state !== "active")) return "warn";
  return "good";
}

/** Follows events for as long as the page is open; the browser connects again by itself. */
export function follow(changed) {
  const source = new EventSource("/api/events");
  let last = 0;
  source.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    if (event.seq < last) state.events = [];
    if (event.seq === last) return;
    last = event.seq;
    state.events = [event, ...state.events].slice(0, EVENTS_MAX);
    changed(event);
  });
}

const headers = (shown) => ({ Authorization: `Bearer ${shown}` });

/** Tries a token and keeps it if it is right. */
export async function unlock(shown) {
  await ask("token", { headers: headers(shown) });
  token = shown;
  sessionStorage.setItem("mcr-token", shown);
}

export function lock() {
  token = null;
  sessionStorage.removeItem("mcr-token");
}

/** Tells a rule to do something. */
export async function change(rule, verb, body) {
  const options = { method: "POST", headers: headers(token) };
  if (body) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  try {
    return await ask(`rules/${rule.id}/${verb}`, options);
  } catch (error) {
    if (error.status === 401) lock();
    throw error;
  }
}
