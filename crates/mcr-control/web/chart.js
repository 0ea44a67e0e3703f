// Charts by hand: lines over time as SVG, redrawn once a second.
import { el, pps } from "./dom.js";

const WIDTH = 1000;

/** The next round number at or above `value`: 1, 2 or 5 times a power of ten. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= value);
  return step * power;
}

function path(values, slots, max, height) {
  const from = slots - values.length;
  const x = (index) => (((from + index) * WIDTH) / (slots - 1)).toFixed(1);
  const y = (value) => (height - (Math.min(value, max) / max) * height).toFixed(1);
  return values.map((value, index) => `${index ? "L" : "M"}${x(index)} ${y(value)}`).join("");
}

/** The large chart: `series` are {name, values}; drawn in the colour of the class `line-NAME`. */
export function draw(box, series, slots) {
  const height = 140;
  const max = ceiling(Math.max(...series.flatMap((one) => one.values), 1));
  const plot = el("svg.plot", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const part of [0.5, 1]) {
    const y = height - part * height + (part === 1 ? 0.5 : 0);
    plot.append(el("line.grid", { x1: 0, x2: WIDTH, y1: y, y2: y }));
  }
  plot.append(el("line.axis", { x1: 0, x2: WIDTH, y1: height - 0.5, y2: height - 0.5 }));
  for (const { name, values } of series) {
    if (values.length < 2) continue;
    const line = path(values, slots, max, height);
    const first = ((slots - values.length) * WIDTH) / (slots - 1);
    plot.append(el(`path.area.line-${name}`, { d: `${line}L${WIDTH} ${height}L${first.toFixed(1)} ${height}Z` }));
    plot.append(el(`path.stroke.line-${name}`, { d: line }));
  }
  const scale = el("div.scale", { "aria-hidden": "true" }, el("span", {}, pps(max)), el("span", {}, pps(max / 2)), el("span", {}, "0"));
  const time = el("div.time", { "aria-hidden": "true" }, el("span", {}, `${slots} s ago`), el("span", {}, `${slots / 2} s`), el("span", {}, "now"));
  box.replaceChildren(scale, plot, time);
}

/** A small line without axes. */
export function spark(svg, values, slots) {
  const height = 100;
  const max = Math.max(...values, 1);
  const line = values.length > 1 ? path(values, slots, max * 1.1, height) : "";
  let stroke = svg.firstElementChild;
  if (!stroke) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    stroke = el("path");
    svg.append(stroke);
  }
  stroke.setAttribute("d", line);
}
