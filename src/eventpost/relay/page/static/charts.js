// Three charts, drawn by hand. The pointer, or the arrow keys, read a second off them.

import { $, el, say, svg } from "./dom.js";
import { clock, latency, short } from "./format.js";
import { on } from "./live.js";

const WIDTH = 360;
const HEIGHT = 120;
const TOP = 4;
const BOTTOM = 2;
const RIGHT = 0;
const ROWS_MAX = 600;
const [AT, ACCEPTED, DELIVERED, QUEUED, P50, P99] = [0, 1, 2, 3, 4, 5]; // a row of the series, as state.py writes it
let rows = [];
let minutes = 2;

/** The next round number that is not below a value. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

class Chart {
  constructor(id, { title, unit, lines, format, least }) {
    Object.assign(this, { lines, format, least, title, at: null });
    this.figure = $(id);
    this.values = lines.map(() => el("b", {}, "–"));
    this.when = el("small", {}, "");
    this.unit = unit;
    this.axis = ["", "", "", "now", ""].map((text) => el("span", {}, text)); // not in the drawing, which is stretched
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: "0" });
    this.figure.append(
      el("figcaption", {}, title, this.when),
      el("div", { class: "legend" }, ...lines.map((line, index) => el("div", { data: { line: index } }, el("span", {}, line.name), this.values[index]))),
      el("div", { class: "plot" }, this.plot, el("div", { class: "axes", "aria-hidden": "true" }, ...this.axis)),
    );
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      this.point(((event.clientX - box.left) / box.width) * WIDTH);
    });
    for (const type of ["pointerleave", "blur"]) this.plot.addEventListener(type, () => this.read(null));
    this.plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const shown = this.shown();
      if (!step || !shown.length) return;
      event.preventDefault();
      const from = this.at === null ? shown.length : shown.findIndex((row) => row[AT] >= this.at);
      this.read(shown[Math.min(shown.length - 1, Math.max(0, from + step))][AT]);
    });
  }

  shown() {
    const end = rows.length ? rows[rows.length - 1][AT] : 0;
    return rows.filter((row) => row[AT] > end - 60 * minutes);
  }

  point(x) {
    const shown = this.shown();
    const at = this.end - (1 - x / (WIDTH - RIGHT)) * 60 * minutes;
    if (shown.length) this.read(shown.reduce((best, row) => (Math.abs(row[AT] - at) < Math.abs(best[AT] - at) ? row : best))[AT]);
  }

  read(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    const shown = this.shown();
    this.end = shown.length ? shown[shown.length - 1][AT] : 0;
    const most = Math.max(this.least, ...shown.flatMap((row) => this.lines.map((line) => row[line.column] ?? 0)));
    const top = ceiling(most);
    const x = (at) => (WIDTH - RIGHT) * (1 - (this.end - at) / (60 * minutes));
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const parts = [0, 0.5, 1].flatMap((share) => [
      svg("line", { class: "grid", x1: 0, x2: WIDTH - RIGHT, y1: y(top * share), y2: y(top * share), "vector-effect": "non-scaling-stroke" }),
    ]);
    this.lines.forEach((line, index) => {
      const runs = [[]];
      for (const row of shown) {
        if (row[line.column] === null) runs.push([]);
        else runs[runs.length - 1].push(`${x(row[AT]).toFixed(1)},${y(row[line.column]).toFixed(1)}`);
      }
      for (const run of runs.filter((one) => one.length)) {
        const from = run[0].split(",")[0];
        const to = run[run.length - 1].split(",")[0];
        if (index === 0) parts.push(svg("path", { class: "area", d: `M${from},${y(0)} L${run.join(" L")} L${to},${y(0)} Z` }));
        parts.push(svg("path", { class: "line", "data-line": index, d: `M${run.join(" L")}${run.length === 1 ? " h0.1" : ""}` }));
      }
    });
    const row = this.at === null ? shown[shown.length - 1] : shown.find((one) => one[AT] >= this.at);
    if (this.at !== null && row) parts.push(svg("line", { class: "cursor", x1: x(row[AT]), x2: x(row[AT]), y1: TOP, y2: y(0), "vector-effect": "non-scaling-stroke" }));
    this.plot.replaceChildren(...parts);
    this.label(top, shown.every((one) => this.lines.every((line) => one[line.column] === null)));
    this.lines.forEach((line, index) => say(this.values[index], row ? this.format(row[line.column]) : "–"));
    say(this.when, this.at !== null && row ? clock(row[AT]) : this.unit);
    const told = this.lines.map((line) => `${line.name} ${row ? this.format(row[line.column]) : "none"}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}: ${told}; up to ${this.format(most)} in the last ${minutes} minutes. Arrow keys read a second.`);
  }

  label(top, isEmpty) {
    say(this.axis[0], this.format(top));
    say(this.axis[1], this.format(top / 2));
    say(this.axis[2], `${minutes} min ago`);
    say(this.axis[4], isEmpty ? `nothing in these ${minutes} minutes` : "");
  }
}

const charts = [
  new Chart("chart-rate", { title: "Throughput", unit: "events a second", least: 1, format: short, lines: [{ name: "delivered", column: DELIVERED }, { name: "accepted", column: ACCEPTED }] }),
  new Chart("chart-latency", { title: "Endpoint latency", unit: "one request", least: 0.001, format: latency, lines: [{ name: "p50", column: P50 }, { name: "p99", column: P99 }] }),
  new Chart("chart-queue", { title: "Queue", unit: "events waiting", least: 1, format: short, lines: [{ name: "queued", column: QUEUED }] }),
];

on("state", ({ series, reset }) => {
  rows = (reset ? series : [...rows, ...series]).slice(-ROWS_MAX);
  for (const chart of charts) chart.draw();
});

const choices = [...document.querySelectorAll(".switch [role=radio]")];
function choose(button) {
  for (const one of choices) {
    one.setAttribute("aria-checked", String(one === button));
    one.tabIndex = one === button ? 0 : -1;
  }
  minutes = Number(button.dataset.minutes);
  for (const chart of charts) chart.draw();
}
for (const button of choices) {
  button.addEventListener("click", () => choose(button));
  button.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const other = choices[(choices.indexOf(button) + 1) % choices.length];
    choose(other);
    other.focus();
  });
}
for (const chart of charts) chart.draw();
