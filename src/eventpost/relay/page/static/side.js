// What happened, the folders, the processes.

import { $, el, reconcile, say } from "./dom.js";
import { age, byReason, bytes, clock, count, moment, plural } from "./format.js";
import { now, on } from "./live.js";

const WHAT = {
  closed: ["good", "Takes events again"],
  open: ["watch", "Left alone"],
  held: ["bad", "Needs a look"],
  dead: ["watch", "Set aside as dead"],
  dropped: ["bad", "Dropped"],
  refused: ["watch", "Refused"],
  damaged: ["bad", "Damaged"],
  trouble: ["bad", "Trouble"],
};

function told(row) {
  const events = row.events ? `${plural(row.events, "event")}, ` : "";
  const reason = row.what === "closed" ? "" : row.reason;
  return [[events + reason, row.where].filter(Boolean).join(" · "), row.detail].filter(Boolean).join(": ") + (row.times > 1 && row.times !== row.events ? ` (${count(row.times)} times)` : "");
}

function showHappened(rows) {
  const list = $("happened-list");
  if (!rows.length) {
    list.replaceChildren(el("li", { class: "empty" }, "Nothing has happened that needs telling."));
    return;
  }
  list.querySelector(".empty")?.remove();
  reconcile(
    list,
    [...rows].reverse().slice(0, 20),
    (row) => [row.first_at, row.what, row.reason, row.where].join(),
    (row) => el("li", {}, el("time", {}), el("p", {}, el("span", { class: "chip", data: { level: (WHAT[row.what] ?? ["info"])[0] } }, (WHAT[row.what] ?? ["", row.what])[1]), el("span", {}))),
    (node, row) => {
      say(node.querySelector("time"), clock(row.at));
      node.querySelector("time").title = moment(row.at);
      say(node.querySelector("p > span:last-child"), told(row));
    },
  );
}

const FACTS = [
  ["Accepted", (one) => count(one.accepted)],
  ["Delivered", (one) => count(one.delivered)],
  ["Queued", (one) => count(one.queued)],
  ["Dead", (one) => count(one.dead)],
  ["Dropped", (one) => byReason(one.dropped) || "0"],
  ["Durability", (one) => one.durability],
  ["Segments", (one) => count(one.segments)],
  ["Writers", (one) => count(one.writers)],
];

function makeJournal() {
  return el(
    "article",
    { class: "card journal" },
    el("h3", {}),
    el("div", { class: "meter" }, el("span", {}), el("meter", { min: 0, max: 1, low: 0.8, high: 0.9, optimum: 0 })),
    el("dl", { class: "facts" }, ...FACTS.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {})))),
    el("ul", { class: "needs" }),
  );
}

function updateJournal(node, one) {
  say(node.querySelector("h3"), one.path);
  const meter = node.querySelector("meter");
  meter.hidden = !one.bytes_max;
  if (one.bytes_max) meter.value = one.stored_bytes / one.bytes_max;
  const said = one.bytes_max ? `${bytes(one.stored_bytes)} of ${bytes(one.bytes_max)} stored` : `${bytes(one.stored_bytes)} stored`;
  say(node.querySelector(".meter span"), `${said}, dead letters ${bytes(one.dead_bytes)}`);
  meter.setAttribute("aria-label", said);
  node.querySelectorAll("dd").forEach((dd, index) => say(dd, FACTS[index][1](one)));
  reconcile(node.querySelector(".needs"), one.needs ?? [], (line) => line, (line) => el("li", {}, line), () => {});
}

on("state", ({ happened, journals, workers, started_at: startedAt }) => {
  showHappened(happened ?? []);
  if (journals?.length) {
    $("journal-list").querySelector(".empty")?.remove();
    reconcile($("journal-list"), journals, (one) => one.path, makeJournal, updateJournal);
  }
  const restarts = (workers ?? []).reduce((sum, one) => sum + one.restarts, 0);
  const parts = [];
  if (workers?.length) parts.push(plural(workers.length, "worker"), restarts ? plural(restarts, "restart") : "no restarts");
  if (startedAt) parts.push(`running for ${age(now() - startedAt)}`);
  say($("workers"), parts.join(" · "));
});
