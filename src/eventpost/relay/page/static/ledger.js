// The top: the verdict, the sum, what was refused.

import { $, el, reconcile, say } from "./dom.js";
import { age, byReason, count } from "./format.js";
import { on } from "./live.js";

const WANTED = new Set(["dead_discarded", "purged"]); // what somebody asked for is no loss
const OLD_S = 3;
const WORDS = { watch: "Look", bad: "Act" };

function term(name, value, { level = "", sub = "" } = {}) {
  const box = document.querySelector(`.term[data-term="${name}"]`);
  box.dataset.level = value === 0 && name !== "accepted" ? "zero" : level;
  say(box.querySelector(".n"), count(value));
  if (name !== "accepted") say(box.querySelector(".sub"), sub);
}

function showVerdict(verdict) {
  $("ledger").dataset.level = verdict.level;
  say($("verdict"), verdict.headline);
  $("verdict-good").hidden = verdict.level !== "good";
  document.title = `${{ good: "✓", watch: "•", bad: "!" }[verdict.level]} ${verdict.headline} · Eventpost relay`;
  reconcile(
    $("reasons"),
    verdict.reasons,
    (reason) => reason.level + reason.about + reason.text.replace(/[\d,]+/g, "#"),
    (reason) => el("li", {}, el("a", { href: `#${reason.about}` }, el("span", { class: "chip", data: { level: reason.level } }, WORDS[reason.level]), el("span", {}))),
    (node, reason) => say(node.querySelector("a > span:last-child"), reason.text),
  );
}

on("state", ({ at, written_at: writtenAt, verdict, ledger, journals }) => {
  showVerdict(verdict);
  const closes = $("closes");
  if (!ledger) {
    closes.dataset.level = "bad";
    say(closes, "No figures");
    return;
  }
  const dropped = Object.values(ledger.dropped).reduce((sum, value) => sum + value, 0);
  const known = ledger.in_flight !== null;
  const flying = journals?.some((one) => one.kind === "streams") ? "in senders' hands" : "requests are out";
  const oldest = ledger.oldest_age_s === null ? "nothing waits" : `the oldest for ${age(ledger.oldest_age_s)}`;
  term("accepted", ledger.accepted);
  term("delivered", ledger.delivered, { sub: ledger.accepted ? `${((100 * ledger.delivered) / ledger.accepted).toFixed(ledger.delivered === ledger.accepted ? 0 : 2)} %` : "" });
  term("queued", ledger.queued, { sub: oldest });
  term("in_flight", ledger.in_flight, { sub: !known ? "counted as queued" : ledger.in_flight ? flying : "" });
  term("dead", ledger.dead, { level: "watch", sub: ledger.dead ? "wait for a decision" : "" });
  term("dropped", dropped, { level: Object.entries(ledger.dropped).some(([reason, value]) => value && !WANTED.has(reason)) ? "bad" : "", sub: byReason(ledger.dropped) });
  closes.dataset.level = ledger.closes ? "good" : "bad";
  say(closes, ledger.closes ? "✓ The sum closes" : "✕ The sum does not close");
  say($("written"), at - writtenAt > OLD_S ? `counted ${age(at - writtenAt)} ago` : "");
  const refused = Object.values(ledger.refused).reduce((sum, value) => sum + value, 0);
  $("refused").replaceChildren(el("b", {}, `${count(refused)} refused`), refused ? ` at the door, not in the sum: ${byReason(ledger.refused)}` : " at the door");
});
