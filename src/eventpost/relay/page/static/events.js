// The live tail. The relay filters; here the newest rows are kept, and change as their events do.

import { $, el, reconcile, say } from "./dom.js";
import { age, bytes, count, moment, plural } from "./format.js";
import { attempt, connect, get, now, on } from "./live.js";
import { facts, open as openPanel, pre } from "./panel.js";
import { openLetter } from "./letters.js";

const ROWS_MAX = 200;
const FRESH_MAX = 5;
const TYPING_MS = 250;
export const STATES = {
  queued: ["info", "Queued"],
  delivered: ["good", "✓ Delivered"],
  dead: ["bad", "✕ Dead"],
  settled: ["", "Settled"],
  overflow: ["bad", "✕ Dropped: overflow"],
  damaged: ["bad", "✕ Dropped: damaged"],
  purged: ["", "Purged"],
  void: ["", "Void"],
};
let rows = [];
let waiting = 0;
let paused = false;
let begun = false;

const filter = () => ({ text: $("events-text").value.trim(), kind: $("events-kind").value, state: $("events-state").value });

function make(row) {
  return el(
    "tr",
    { role: "row", on: { click: () => openEvent(row.id) } },
    el("td", { role: "cell", class: "soft" }),
    el("td", { role: "cell" }, el("span", { class: "kind", data: { kind: row.kind } }, row.kind)),
    el(
      "td",
      { role: "cell", class: "main" },
      el("button", { class: "open", type: "button", title: "Show this event", "aria-haspopup": "dialog" }, row.key),
      row.variation ? el("span", { class: "then" }, ` → ${row.variation}`) : null,
      row.events > 1 ? el("span", { class: "soft" }, ` · ${count(row.events)} events`) : null,
    ),
    el("td", { role: "cell", class: `mono ${row.project ? "" : "none"}`, data: { label: "project" } }, row.project || "–"),
    el("td", { role: "cell" }),
    el("td", { role: "cell", class: "mark" }, el("span", { class: "chip" })),
  );
}

function update(node, row) {
  const [level, word] = STATES[row.state] ?? ["", row.state];
  const cells = node.children;
  say(cells[0], age(now() - row.at));
  cells[0].title = moment(row.at);
  const known = row.attempts !== null && row.attempts !== undefined;
  say(cells[4], known ? count(row.attempts) : "–");
  cells[4].className = known ? "" : "soft none";
  cells[4].dataset.label = "attempts";
  const chip = cells[5].firstChild;
  chip.dataset.level = level;
  say(chip, row.reason ? `${word}: ${row.reason}` : word);
}

function draw() {
  reconcile($("events-rows"), rows, (row) => row.id, make, update);
  const wanted = filter();
  const filtered = wanted.text || wanted.kind || wanted.state;
  $("events-empty").hidden = rows.length > 0;
  say($("events-empty"), !begun ? "Looking …" : filtered ? "No event like that among the newest. Change the filter, or wait." : "No events yet. They appear here as they come in.");
}

function note(passedOver) {
  const said = [];
  if (paused) said.push(waiting ? `Paused; ${plural(waiting, "newer event")} not shown.` : "Paused.");
  else if (passedOver) said.push(`Showing the newest; ${plural(passedOver, "more event")} in the last second.`);
  say($("events-note"), said.join(" "));
}

on("events", ({ reset, rows: fresh, changed, passed_over: passedOver }) => {
  const wanted = filter();
  if (paused && !reset) waiting += fresh.length + passedOver;
  else {
    const known = new Set(reset ? [] : rows.map((row) => row.id));
    const added = fresh.filter((row) => !known.has(row.id)).reverse();
    rows = [...added, ...(reset ? [] : rows)];
    if (!reset && added.length <= FRESH_MAX) for (const row of added) row.isFresh = true; // a storm need not flicker
  }
  for (const row of changed) {
    const mine = rows.find((one) => one.id === row.id);
    if (mine) Object.assign(mine, row);
    else if (!paused && wanted.state && row.state === wanted.state && !wanted.text && (!wanted.kind || row.kind === wanted.kind)) rows.unshift(row);
  }
  if (wanted.state && !paused) rows = rows.filter((row) => row.state === wanted.state);
  rows = rows.slice(0, ROWS_MAX);
  begun = true;
  draw();
  note(passedOver);
  if (reset) return;
  for (const node of $("events-rows").children) {
    const row = rows.find((one) => one.id === node.dataset.key);
    node.classList.toggle("fresh", Boolean(row?.isFresh));
    if (row) row.isFresh = false;
  }
});

/** Show one event with its payload. */
export async function openEvent(id) {
  const row = rows.find((one) => one.id === id);
  const event = await attempt("This event cannot be shown", () => get("event", { id }));
  if (!event) return;
  const [level, word] = STATES[event.state] ?? ["", event.state];
  openPanel({
    title: event.key,
    body: [
      facts([
        ["State", el("span", { class: "chip", data: { level } }, event.reason ? `${word}: ${event.reason}` : word)],
        ["Kind", event.kind], ["Variation", event.variation], ["Project", event.project], ["Accepted", `${moment(event.at)} (${age(now() - event.at)} ago)`],
        ["Attempts", event.attempts ?? row?.attempts], ["Endpoint", event.endpoint], ["First uuid", event.uuid], ["Visitor", event.visitor], ["Size", bytes(event.bytes)],
      ]),
      pre("Payload", event.payload),
      pre("Request", { verb: event.verb, headers: event.headers, shared: event.shared }),
    ],
    foot: event.letter ? [el("button", { class: "button primary", type: "button", on: { click: () => openLetter(event.letter) } }, "Show the dead letter")] : [],
  });
}

let typing = null;
function refilter() {
  clearTimeout(typing);
  typing = setTimeout(() => connect(filter()), TYPING_MS);
}
for (const id of ["events-text", "events-kind", "events-state"]) $(id).addEventListener("input", refilter);

export function pause() {
  paused = !paused;
  waiting = 0;
  $("events-pause").setAttribute("aria-pressed", String(paused));
  say($("events-pause"), paused ? "Resume" : "Pause");
  note(0);
  if (!paused) connect(filter());
}
$("events-pause").addEventListener("click", pause);
setInterval(() => rows.length && reconcile($("events-rows"), rows, (row) => row.id, make, update), 1000);

export const begin = () => connect(filter());
