// Elements from data, text never read as markup; and numbers as people read them.

/** An element: `el("td.num", {title: "x"}, "text", child)`. Handlers are given as functions under "onclick" and the like. */
export function el(spec, ...rest) {
  const [tag, ...classes] = spec.split(".");
  const svg = ["svg", "path", "line", "g", "rect", "text", "circle"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag || "div");
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const part of rest.flat()) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node || typeof part !== "object") made.append(part);
    else for (const [name, value] of Object.entries(part)) set(made, name, value);
  }
  return made;
}

function set(element, name, value) {
  if (typeof value === "function") element.addEventListener(name.slice(2), value);
  else if (value === true) element.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
}

/** Changes text and attributes only where they differ, so that focus, selection and readers are not disturbed. */
export function put(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items` in order, keeping the element of each key. */
export function keyed(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = old.get(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    old.delete(name);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    if (update) update(child, item);
  }
  for (const child of old.values()) child.remove();
}

const whole = new Intl.NumberFormat("en-US");

export const count = (value) => whole.format(Math.round(value));

function scaled(value, units) {
  let step = 0;
  while (value >= 999.5 && step < units.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = value >= 100 || step === 0 ? 0 : value >= 10 ? 1 : 2;
  return [value.toFixed(digits), units[step]];
}

export const pps = (value) => scaled(value, ["/s", "k/s", "M/s", "G/s"]).join(" ").replace(" /s", "/s");
export const bits = (value) => scaled(value, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]).join(" ");
export const short = (value) => scaled(value, ["", "k", "M", "G", "T"]).join("");

/** A time that something took, in nanoseconds. */
export function time(ns) {
  if (ns == null) return "-";
  const [size, unit] = [[1e3, "ns"], [1e6, "µs"], [1e9, "ms"], [Infinity, "s"]].find(([end]) => ns < end);
  return `${(ns / (unit === "s" ? 1e9 : size / 1e3)).toLocaleString("en", { maximumSignificantDigits: 3 })} ${unit}`;
}

export function ago(seconds) {
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export const sum = (object) => Object.values(object || {}).reduce((all, one) => all + one, 0);
