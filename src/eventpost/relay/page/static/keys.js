// Keyboard shortcuts. Single keys can be switched off: speech input and some screen readers type them by themselves.

import { $, el } from "./dom.js";
import { pause } from "./events.js";

const STORED = "eventpost-single-keys";
const JUMPS = ["ledger", "endpoints", "events", "dead", "happened", "journals"];
const NAMES = ["Ledger", "Endpoints", "Events", "Dead letters", "History", "Journals"];

function jump(id) {
  const part = $(id);
  part.scrollIntoView({ block: "start" });
  (id === "ledger" ? $("main") : part).focus({ preventScroll: true });
}

/** Move among the rows of the table that has the focus, else of the events. */
function move(step) {
  const here = document.activeElement;
  const table = here.closest?.(".part")?.querySelector("table.rows") ?? $("events-table");
  const buttons = [...table.querySelectorAll("tbody .open")];
  if (!buttons.length) return;
  const row = here.closest?.("tr");
  const at = buttons.findIndex((button) => button.closest("tr") === row);
  buttons[Math.min(buttons.length - 1, Math.max(0, at < 0 ? 0 : at + step))].focus();
}

function tick() {
  document.activeElement.closest?.("#dead-rows tr")?.querySelector("input")?.click();
}

const press = (id) => !$(id).disabled && !$("dead-bulk").hidden && $(id).click();

const KEYS = [
  ["?", "These shortcuts", () => $("keys").showModal()],
  ["/", "Filter the events", () => $("events-text").focus()],
  ["d", "Search the dead letters", () => $("dead-text").focus()],
  ["p", "Pause or resume the events", pause],
  ["j", "Next row", () => move(1)],
  ["k", "Row before", () => move(-1)],
  ["x", "Choose this dead letter", tick],
  ["r", "Retry the chosen dead letters, or all", () => press("dead-retry")],
  ["e", "Export them", () => press("dead-export")],
  ...JUMPS.map((id, index) => [String(index + 1), NAMES[index], () => jump(id)]),
];

$("keys-list").append(
  ...KEYS.flatMap(([key, says]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, says)]),
  el("dt", {}, el("kbd", {}, "Enter")), el("dd", {}, "Open the row"),
  el("dt", {}, el("kbd", {}, "Esc")), el("dd", {}, "Close what is open, leave a field"),
);

const on = $("keys-on");
on.checked = localStorage.getItem(STORED) !== "off";
on.addEventListener("change", () => localStorage.setItem(STORED, on.checked ? "on" : "off"));
$("show-keys").addEventListener("click", () => $("keys").showModal());

document.addEventListener("keydown", (event) => {
  const inField = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && inField) event.target.blur();
  if (inField || event.ctrlKey || event.metaKey || event.altKey || !on.checked || document.querySelector("dialog[open]")) return;
  const found = KEYS.find(([key]) => key === event.key);
  if (!found) return;
  event.preventDefault();
  found[2]();
});
