// The page: looks once a second, draws, and listens to keys and buttons.
import { bits, count, el, keyed, mark, pps, put } from "./dom.js";
import { draw } from "./chart.js";
import { SLOTS, change, follow, lock, look, look_at, state, unlock, unlocked } from "./data.js";
import { VIEWS, ui } from "./views.js";

const get = (id) => document.getElementById(id);
const SERIES = [["in", "Taken in"], ["out", "Copies sent"], ["drops", "Dropped"]];
const EVERY_MS = 1000;
let view = VIEWS.find((one) => `#${one.name}` === location.hash) ?? VIEWS[0];

function cards() {
  const { totals } = state;
  const on = state.rules.filter((rule) => rule.enabled);
  const active = on.filter((rule) => rule.state === "active").length;
  const items = [
    { name: "Taken in", value: pps(totals.in), note: bits(totals.bits) },
    { name: "Copies sent", value: pps(totals.out), note: `to ${count(state.rules.reduce((all, rule) => all + rule.outputs.length, 0))} outputs` },
    { name: "Dropped", value: pps(totals.drops), note: `${count(totals.allDrops ?? 0)} in all`, health: totals.drops > 0 ? "bad" : "good" },
    { name: "Rules active", value: `${active} of ${on.length}`, note: state.rules.length > on.length ? `${state.rules.length - on.length} switched off` : "", health: active < on.length ? "bad" : "good" },
  ];
  const make = (item) => el("div.card", {}, el("h2", {}, item.name), el("p.value"), el("p.note"));
  keyed(get("cards"), items, (item) => item.name, make, (card, item) => {
    mark(card, "data-health", item.health);
    put(card.children[1], item.value);
    put(card.children[2], item.note);
  });
}

function status() {
  const bad = state.rules.filter((rule) => rule.health === "bad").length;
  const down = state.workers.filter((worker) => worker.state !== "running").length;
  const parts = [];
  if (down) parts.push(`${down} of ${state.workers.length} workers down`);
  if (bad) parts.push(`${bad} ${bad === 1 ? "rule needs" : "rules need"} attention`);
  const text = state.problem ?? (parts.length ? parts.join(", ") : state.rules.length ? "all is well" : "no rules");
  mark(get("status"), "data-level", state.problem ? "wait" : parts.length ? "bad" : "good");
  put(get("status-text"), text);
  document.title = parts.length ? `(!) MCR ${location.hostname}` : `MCR ${location.hostname}`;
}

function chart() {
  draw(get("chart"), SERIES.map(([name]) => ({ name, values: state.series[name] })), SLOTS);
  const make = ([name, title]) => el(`li.line-${name}`, {}, el("span.swatch"), `${title} `, el("b"));
  keyed(get("legend"), SERIES, ([name]) => name, make, (item, [name]) => put(item.lastElementChild, pps(state.series[name].at(-1) ?? 0)));
}

/** Every view has a tab and a panel; only the chosen one is drawn. */
function frame() {
  const tabs = VIEWS.map((one, index) => el("button.tab", { type: "button", role: "tab", id: `tab-${one.name}`, "aria-controls": `panel-${one.name}`, title: `${index + 1}`, onclick: () => choose(one) }, one.title, el("span.count")));
  get("tabs").replaceChildren(...tabs);
  get("panels").replaceChildren(...VIEWS.map((one) => el("section.panel", { role: "tabpanel", id: `panel-${one.name}`, "aria-labelledby": `tab-${one.name}`, hidden: true },
    el(`div.table.${one.name}`, { role: "table", "aria-label": one.title }, el("div.head", { role: "rowgroup" }, el("div.line", { role: "row" }, one.columns.map(heading))), el("div.body")), el("p.empty", { hidden: true }))));
}

function heading([name, label, sort]) {
  const classes = name.replaceAll(" ", ".");
  if (!sort) return el(`div.cell.${classes}`, { role: "columnheader" }, label);
  return el(`div.cell.${classes}`, { role: "columnheader", "data-sort": sort }, el("button.sort", { type: "button", onclick: () => { ui.sort = sort; draw_all(); } }, label));
}

function panel() {
  const words = get("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of VIEWS) {
    const tab = get(`tab-${one.name}`);
    const chosen = one === view;
    mark(tab, "aria-selected", chosen);
    mark(tab, "tabindex", chosen ? 0 : -1);
    const all = one.items();
    put(tab.lastElementChild, all.length);
    mark(tab, "data-health", one.name === "rules" && all.some((rule) => rule.health === "bad") ? "bad" : null);
    const section = get(`panel-${one.name}`);
    section.hidden = !chosen;
    if (!chosen) continue;
    const shown = words.length ? all.filter((item) => { const text = one.text(item).toLowerCase(); return words.every((word) => text.includes(word)); }) : all;
    const [table, empty] = section.children;
    for (const head of table.querySelectorAll("[data-sort]")) mark(head, "aria-sort", head.dataset.sort === ui.sort ? (ui.sort === "name" ? "ascending" : "descending") : null);
    keyed(table.lastElementChild, shown, one.key, one.make, one.update);
    table.hidden = shown.length === 0;
    empty.hidden = shown.length > 0;
    put(empty, all.length ? "Nothing matches the filter." : one.empty);
  }
}

function draw_all() {
  cards();
  status();
  chart();
  panel();
  const may = state.version?.may_change;
  get("unlock").hidden = !may;
  put(get("unlock"), unlocked() ? "Lock" : "Unlock");
  put(get("version"), state.version ? `mcrd ${state.version.version}${may ? "" : " · shows only"}` : "");
}

function choose(one) {
  view = one;
  history.replaceState(null, "", `#${one.name}`);
  panel();
}

function theme(next) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const wanted = next ?? (now === "dark" ? "light" : "dark");
  document.documentElement.dataset.theme = wanted;
  localStorage.setItem("mcr-theme", wanted);
}

function toast(text) {
  const box = get("toast");
  put(box, text);
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { box.hidden = true; }, 6000);
}

/** Asks first; resolves to whether the answer was yes. */
function sure(title, text, yes) {
  const dialog = get("ask");
  put(get("ask-title"), title);
  put(get("ask-text"), text);
  put(get("ask-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

ui.changed = panel;
ui.act = async (id, verb) => {
  const rule = state.rules.find((one) => one.id === id);
  if (!rule) return;
  if (verb === "remove" && !(await sure(`Remove ${rule.name}?`, "It stops relaying at once, and its counters are gone.", "Remove"))) return;
  const body = verb === "move" ? { worker: (rule.worker + 1) % state.workers.length } : null;
  try {
    await change(rule, verb, body);
  } catch (error) {
    toast(error.message);
  }
  await turn();
};

/** One look at everything. */
async function turn() {
  try {
    await look();
    const known = new Set(state.rules.map((rule) => rule.id));
    await look_at([...ui.open].filter((id) => known.has(id)));
  } catch (error) {
    state.problem = error.status ? error.message : "the daemon does not answer";
  }
  draw_all();
}

async function turns() {
  if (!document.hidden) await turn();
  setTimeout(turns, EVERY_MS);
}

/** Moves to another row by so many. */
function step(by) {
  const lines = [...get(`panel-${view.name}`).querySelectorAll(".body .row > .line")];
  if (!lines.length) return;
  const now = lines.indexOf(document.activeElement?.closest(".row")?.firstElementChild);
  const next = lines[now < 0 ? 0 : Math.min(lines.length - 1, Math.max(0, now + by))];
  (next.querySelector("button") ?? next).focus();
  next.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
  "/": () => get("filter").focus(), t: () => theme(), "?": () => get("keys").showModal(),
  s: () => { ui.sort = { rate: "drops", drops: "name", name: "rate" }[ui.sort]; panel(); },
};

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target === get("filter")) {
    if (event.key === "Escape") { event.target.value = ""; event.target.blur(); panel(); }
    return;
  }
  const number = VIEWS[Number(event.key) - 1];
  const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (number) choose(number);
  else if (along && event.target.role === "tab") {
    choose(VIEWS[(VIEWS.indexOf(view) + along + VIEWS.length) % VIEWS.length]);
    get(`tab-${view.name}`).focus();
  } else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
}

function listen() {
  document.addEventListener("keydown", key);
  get("filter").addEventListener("input", panel);
  get("theme").addEventListener("click", () => theme());
  get("help").addEventListener("click", () => get("keys").showModal());
  get("unlock").addEventListener("click", () => {
    if (!unlocked()) return get("token-dialog").showModal();
    lock();
    return draw_all();
  });
  get("token-cancel").addEventListener("click", () => get("token-dialog").close());
  get("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await unlock(get("token").value.trim());
      put(get("token-error"), "");
      get("token-dialog").close();
    } catch (error) {
      put(get("token-error"), error.status === 401 ? "This is not the token." : error.message);
    }
    get("token").value = "";
    draw_all();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) turn(); });
}

const kept = localStorage.getItem("mcr-theme");
if (kept) theme(kept);
put(get("host"), location.hostname);
frame();
listen();
follow(() => { if (view.name === "events") panel(); });
turns();
