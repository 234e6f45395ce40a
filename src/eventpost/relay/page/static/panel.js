// The panel at the side: one event or dead letter, whole.

import { $, el, say, toast } from "./dom.js";

/** Open the panel; where it is open already, show this instead.  Who had the focus gets it back: the dialog's own doing. */
export function open({ title, body, foot = [] }) {
  const panel = $("panel");
  say($("panel-title"), title);
  $("panel-body").replaceChildren(...body);
  $("panel-body").scrollTop = 0;
  $("panel-foot").replaceChildren(...foot);
  if (!panel.open) panel.showModal();
  $("panel-title").focus();
}

export function close() {
  if ($("panel").open) $("panel").close();
}

/** A list of names and values; what has no value is left out. */
export function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el("dl", { class: "facts" }, ...there.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** A text as it is, or a value as indented JSON, with a button that copies it. */
export function pre(title, value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  const copy = el("button", { class: "button quiet", type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast(`${title} copied`);
    } catch {
      toast(`${title} could not be copied: the browser does not allow it here`, { error: true });
    }
  });
  return el("section", {}, el("div", { class: "pre-head" }, el("h3", {}, title), copy), el("pre", { tabindex: "0", "aria-label": title }, text));
}

for (const button of document.querySelectorAll("dialog [data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (event.target === dialog && !inside) dialog.close();
  });
}
