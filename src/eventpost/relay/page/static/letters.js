// Dead letters: by reason, searched, chosen, and what is done to them.

import { $, ask, el, reconcile, say, toast } from "./dom.js";
import { age, bytes, count, moment, plural } from "./format.js";
import { attempt, download, get, now, on, perSecond, post } from "./live.js";
import { close, facts, open as openPanel, pre } from "./panel.js";

const TYPING_MS = 250;
const LIST_ROWS = 20; // what one answer holds
const ASK_FROM = 20;
const DONE = { retry: "put back into the queue", discard: "discarded" };
let rows = [];
let more = "";
let reason = "";
let byReason = {};
let total = 0;
let begun = false;
let asked = 0;
const chosen = new Set();

const text = () => $("dead-text").value.trim();

/** What the buttons are about: the ticked letters, or else all that the filter takes. */
function choice() {
  if (chosen.size) return { ids: [...chosen] };
  return { matching: { text: text(), reason }, total: text() ? null : reason ? byReason[reason] ?? 0 : total };
}

function make(row) {
  const tick = el("input", { type: "checkbox", "aria-label": `Choose ${row.key}` });
  tick.addEventListener("change", () => {
    if (tick.checked) chosen.add(row.id);
    else chosen.delete(row.id);
    draw();
  });
  return el(
    "tr",
    { role: "row", on: { click: (event) => !event.target.closest("td:first-child") && openLetter(row.id) } },
    el("td", { role: "cell" }, el("label", { class: "tick" }, tick)),
    el("td", { role: "cell", class: "soft" }),
    el("td", { role: "cell", class: "mark" }, el("span", { class: "chip", data: { level: "bad" } }, row.status && !row.reason.includes(row.status) ? `${row.reason} · ${row.status}` : row.reason)),
    el(
      "td",
      { role: "cell", class: "main" },
      el("button", { class: "open", type: "button", title: "Show this dead letter", "aria-haspopup": "dialog" }, row.key),
      row.variation ? el("span", { class: "then" }, ` → ${row.variation}`) : null,
    ),
    el("td", { role: "cell", class: `mono ${row.project ? "" : "none"}`, data: { label: "project" } }, row.project || "–"),
    el("td", { role: "cell", data: { label: "attempts" } }, count(row.attempts)),
    el("td", { role: "cell", class: `soft wide ${row.answer ? "" : "none"}` }, row.answer || "–"),
  );
}

function update(node, row) {
  const ticked = chosen.has(row.id);
  node.classList.toggle("chosen", ticked);
  node.querySelector("input").checked = ticked;
  say(node.children[1], `${age(now() - row.at)} ago`);
  node.children[1].title = moment(row.at);
}

function drawReasons() {
  const all = [["", "All", total], ...Object.entries(byReason).sort(([, a], [, b]) => b - a).map(([name, value]) => [name, name, value])];
  reconcile(
    $("dead-reasons"),
    total ? all : [],
    ([name]) => `r:${name}`,
    ([name, shown]) => el("button", { type: "button", on: { click: () => pick(name) } }, shown, el("b", {})),
    (node, [name, , value]) => {
      node.setAttribute("aria-pressed", String(name === reason));
      say(node.querySelector("b"), count(value));
    },
  );
}

function draw() {
  drawReasons();
  reconcile($("dead-rows"), rows, (row) => row.id, make, update);
  const { ids, total: all } = choice();
  const none = !rows.length;
  say($("dead-chosen"), ids ? `${plural(ids.length, "letter")} chosen` : none ? "" : text() ? "All that match" : all === null ? "All" : `All ${plural(all, "letter")}${reason ? ` “${reason}”` : ""}`);
  for (const [id, word] of [["dead-retry", "Retry"], ["dead-export", "Export"], ["dead-discard", "Discard"]]) {
    $(id).disabled = none;
    say($(id), ids ? `${word} ${count(ids.length)}` : `${word} all`);
  }
  $("dead-bulk").hidden = none;
  $("dead-table").hidden = none;
  $("dead-more").hidden = !more;
  const box = $("dead-all");
  box.checked = rows.length > 0 && rows.every((row) => chosen.has(row.id));
  box.indeterminate = !box.checked && chosen.size > 0;
  $("dead-empty").hidden = !none;
  const filtered = total && (reason || text());
  say($("dead-empty"), !begun ? "Looking …" : filtered ? "No dead letter like that." : "No dead letters. What an endpoint refuses for good would wait here.");
  $("nav-dead").hidden = !total;
  say($("nav-dead"), total ? count(total) : "");
}

/** Ask for the list anew; `after`: go on where it ended. */
async function load({ after = "" } = {}) {
  const turn = ++asked;
  const found = await attempt("The dead letters cannot be listed", () => get("letters", { text: text(), reason, before: after }));
  if (!found || turn !== asked) return;
  begun = true;
  rows = after ? [...rows, ...found.rows] : found.rows;
  more = found.more;
  const there = new Set(rows.map((row) => row.id));
  for (const id of chosen) if (!there.has(id)) chosen.delete(id);
  draw();
}

function pick(name) {
  reason = name;
  chosen.clear();
  load();
  draw();
}

on("dead", (dead) => {
  byReason = dead.by_reason;
  total = dead.total;
  if (reason && !byReason[reason]) reason = "";
  draw();
  if (rows.length <= LIST_ROWS || !total) load(); // further down the list it stays as it is being read
});

/** Retry or discard, after asking where that is much or cannot be undone. */
async function change(action, wanted) {
  const many = wanted.ids ? wanted.ids.length : wanted.total;
  const what = many === null ? "all that match" : plural(many, "dead letter");
  const lasts = many > perSecond ? ` At ${perSecond} a second this takes about ${age(many / perSecond)}.` : "";
  if (action === "discard" || !wanted.ids || many >= ASK_FROM) {
    const sure = await ask(
      action === "retry"
        ? { title: `Retry ${what}?`, text: `They go back into the queue with the uuid and bytes they have.${lasts}`, yes: "Retry" }
        : { title: `Discard ${what}?`, text: "They are given up for good. The ledger counts them as dropped: dead_discarded.", yes: "Discard", danger: true },
    );
    if (!sure) return;
  }
  const said = await attempt(action === "retry" ? "Not retried" : "Not discarded", () => post(`letters/${action}`, wanted));
  if (!said) return;
  close();
  chosen.clear();
  showJob(said.job);
  load();
}

function exportThem(wanted) {
  download("letters/export", wanted);
  toast("The browser is saving the export: one JSON object a line.");
}

let toldOf = null;
function showJob(job) {
  $("job").hidden = job?.state !== "running";
  if (!job) return;
  const verb = job.action === "retry" ? "Retrying" : "Discarding";
  say($("job-text"), `${verb}: ${count(job.done)}${job.total === null ? "" : ` of ${count(job.total)}`}`);
  if (job.total) $("job-bar").value = job.done / job.total;
  else $("job-bar").removeAttribute("value");
  if (job.state === "running" || toldOf === job.id) return;
  const first = toldOf === null && now() - (job.ended_at ?? 0) > 15; // of long before this page was opened
  toldOf = job.id;
  if (first) return;
  const gone = job.done - job.changed;
  const others = gone > 0 ? `; ${plural(gone, "was", "were")} gone already` : "";
  const end = { done: "", stopped: " Stopped: the rest is as it was.", failed: ` Then it failed: ${job.error}.` }[job.state];
  toast(`${plural(job.changed, "dead letter")} ${DONE[job.action]}${others}.${end}`, { error: job.state === "failed" });
  load();
}
on("job", showJob);

/** Show one dead letter with its payload and the endpoint's answer. */
export async function openLetter(id) {
  const letter = await attempt("This dead letter cannot be shown", () => get("letter", { id }));
  if (!letter) return;
  const one = { ids: [id] };
  openPanel({
    title: letter.key,
    body: [
      facts([
        ["Reason", el("span", { class: "chip", data: { level: "bad" } }, letter.reason)], ["Status", letter.status || ""], ["Attempts", count(letter.attempts)],
        ["Died", `${moment(letter.at)} (${age(now() - letter.at)} ago)`], ["Kind", letter.kind], ["Variation", letter.variation], ["Project", letter.project],
        ["Endpoint", letter.endpoint], ["First uuid", letter.uuid], ["Visitor", letter.visitor], ["Size", bytes(letter.bytes)],
      ]),
      pre("The endpoint’s answer", letter.answer || "It said nothing."),
      pre("Payload", letter.payload),
      pre("Request", { verb: letter.verb, headers: letter.headers, shared: letter.shared }),
    ],
    foot: [
      el("button", { class: "button primary", type: "button", on: { click: () => change("retry", one) } }, "Retry"),
      el("button", { class: "button", type: "button", on: { click: () => exportThem(one) } }, "Export"),
      el("button", { class: "button danger", type: "button", on: { click: () => change("discard", one) } }, "Discard"),
    ],
  });
}

let typing = null;
$("dead-text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    chosen.clear();
    load();
  }, TYPING_MS);
});
$("dead-more").addEventListener("click", () => load({ after: more }));
$("dead-all").addEventListener("change", (event) => {
  chosen.clear();
  if (event.target.checked) for (const row of rows) chosen.add(row.id);
  draw();
});
$("dead-retry").addEventListener("click", () => change("retry", choice()));
$("dead-discard").addEventListener("click", () => change("discard", choice()));
$("dead-export").addEventListener("click", () => exportThem(choice()));
$("job-stop").addEventListener("click", async () => {
  const said = await attempt("Not stopped", () => post("letters/stop", {}));
  if (said) toast("Asked to stop; what is done stays done.");
});
setInterval(() => rows.length && reconcile($("dead-rows"), rows, (row) => row.id, make, update), 5000);
