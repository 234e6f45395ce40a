// What happened, the queues, the processes.

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

const FOLDER = [
  ["Accepted", (one) => count(one.accepted)],
  ["Delivered", (one) => count(one.delivered)],
  ["Queued", (one) => count(one.queued)],
  ["Dead", (one) => count(one.dead)],
  ["Dropped", (one) => byReason(one.dropped) || "0"],
  ["Durability", (one) => one.durability],
  ["Segments", (one) => count(one.segments)],
  ["Writers", (one) => count(one.writers)],
];

// Of a queue that machines share: the figures are the whole fleet's.
const SHARED = [
  ["Accepted", (one) => count(one.accepted)],
  ["Delivered", (one) => count(one.delivered)],
  ["Waiting", (one) => count(one.queued - one.in_flight)],
  ["In hand", (one) => count(one.in_flight)],
  ["Dead", (one) => count(one.dead)],
  ["Dropped", (one) => byReason(one.dropped) || "0"],
  ["Durability", (one) => one.durability],
  ["Senders", (one) => count(one.writers)],
];

const PARTS = [
  ["Part", (part) => part.number],
  ["Server", (part) => part.trouble || part.address],
  ["Waiting", (part) => count(part.queued)],
  ["In hand", (part) => count(part.in_flight)],
  ["Dead", (part) => count(part.dead)],
  ["Oldest", (part) => age(part.oldest_age_s)],
];

const SENDERS = [
  ["Sender", (member) => member.name],
  ["Entries in hand", (member) => count(member.entries_held)],
  ["Asked last", (member) => `${age(member.idle_s)} ago`],
];
const SENDERS_MAX = 50;

const factsOf = (one) => (one.kind === "streams" ? SHARED : FOLDER);

function makeTable(name, columns) {
  const heads = columns.map(([title]) => el("th", { scope: "col" }, title));
  return el("div", { class: "scroll" }, el("table", { class: `fleet ${name}` }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {})));
}

function updateTable(node, columns, rows, keyOf, mark) {
  reconcile(
    node.querySelector("tbody"),
    rows,
    keyOf,
    () => el("tr", {}, ...columns.map(() => el("td", {}))),
    (row, one) => {
      row.dataset.level = mark(one) ? "watch" : "";
      row.querySelectorAll("td").forEach((td, index) => say(td, columns[index][1](one)));
    },
  );
}

function makeJournal(one) {
  return el(
    "article",
    { class: "card journal" },
    el("h3", {}),
    el("div", { class: "meter" }, el("span", {}), el("meter", { min: 0, max: 1, low: 0.8, high: 0.9, optimum: 0 })),
    el("dl", { class: "facts" }, ...factsOf(one).map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {})))),
    one.kind === "streams" ? makeTable("parts", PARTS) : null,
    one.kind === "streams" ? makeTable("senders", SENDERS) : null,
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
  node.querySelectorAll("dd").forEach((dd, index) => say(dd, factsOf(one)[index][1](one)));
  if (node.querySelector(".parts")) {
    updateTable(node.querySelector(".parts"), PARTS, one.shards ?? [], (part) => part.number, (part) => part.trouble);
    const slowest = one.slowest?.name;
    updateTable(node.querySelector(".senders"), SENDERS, (one.members ?? []).slice(0, SENDERS_MAX), (member) => member.name, (member) => member.name === slowest);
  }
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
