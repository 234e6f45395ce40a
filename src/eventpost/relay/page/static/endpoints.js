// Each endpoint: how its breaker stands, why, since when, and when it is tried next.

import { $, el, reconcile, say } from "./dom.js";
import { age, count, latency, when } from "./format.js";
import { now, on } from "./live.js";

const STATES = {
  closed: ["good", "✓ Takes events"],
  open: ["watch", "‖ Left alone"],
  half_open: ["watch", "… Being tried"],
  held: ["bad", "! Needs a look"],
};
const NEVER = ["info", "Nothing sent yet"];
const FACTS = ["Queued", "Oldest", "Delivered", "Retried", "Dead", "p50", "p99"];
let told = [];
let toldAt = 0;

function make() {
  return el(
    "article",
    { class: "card endpoint" },
    el("div", {}, el("h3", {}), el("p", { class: "endpoint-said" }, el("span", { class: "chip" }), el("span", { class: "soft" })), el("p", { class: "endpoint-remedy" })),
    el("dl", { class: "facts" }, ...FACTS.map((name) => el("div", {}, el("dt", {}, name), el("dd", {})))),
  );
}

function why(one) {
  if (!one.breaker) return "";
  const since = `since ${when(one.since)} (${age(now() - one.since)})`;
  if (one.breaker === "closed") return one.answered_at ? `last answer ${one.status}, ${age(now() - one.answered_at)} ago` : since;
  const left = one.retry_in_s === null ? null : Math.max(0, one.retry_in_s - (Date.now() - toldAt) / 1000);
  const probe = left === null ? "a probe is under way" : left < 1 ? "next probe now" : `next probe in ${age(left)}`;
  return `${one.reason}, ${since}; ${probe}`;
}

function update(node, one) {
  const [level, word] = STATES[one.breaker] ?? NEVER;
  node.dataset.level = level;
  node.querySelector(".chip").dataset.level = level;
  say(node.querySelector("h3"), one.endpoint);
  say(node.querySelector(".chip"), word);
  say(node.querySelector(".endpoint-said .soft"), why(one));
  const remedy = node.querySelector(".endpoint-remedy");
  say(remedy, one.breaker === "closed" ? "" : one.detail ?? "");
  remedy.hidden = !remedy.textContent;
  const values = [count(one.queued), one.queued ? age(one.oldest_age_s) : "–", count(one.delivered ?? 0), count(one.retried ?? 0), count(one.dead ?? 0), latency(one.p50_s), latency(one.p99_s)];
  node.querySelectorAll("dd").forEach((dd, index) => say(dd, values[index]));
}

function draw() {
  if (!told.length) {
    $("endpoint-list").replaceChildren(el("p", { class: "empty" }, "No endpoint yet: nothing has been accepted."));
    return;
  }
  $("endpoint-list").querySelector(".empty")?.remove();
  reconcile($("endpoint-list"), told, (one) => one.endpoint, make, update);
}

on("state", ({ endpoints }) => {
  told = endpoints ?? [];
  toldAt = Date.now();
  draw();
});
setInterval(draw, 1000);
