// Elements made of text: nothing here, or anywhere on the page, turns a string into markup.

export const $ = (id) => document.getElementById(id);

/** Make an element: `el("p", {class: "muted"}, "text", child)`. `data` sets data-*, `on` listens; null children are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "data") Object.assign(made.dataset, value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) made.addEventListener(type, listener);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Set a text only where it differs: a live region speaks of what has changed. */
export function say(element, text) {
  const said = String(text);
  if (element.textContent !== said) element.textContent = said;
}

/** Put `keyed` children into a parent, reusing what is there: focus and selection stay where they are. */
export function reconcile(parent, items, keyOf, make, update) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = there.get(key);
    if (node) there.delete(key);
    else {
      node = make(item);
      node.dataset.key = key;
    }
    update(node, item);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of there.values()) node.remove();
}

/** Tell what a button did. Errors stay until they are closed. */
export function toast(text, { error = false } = {}) {
  const region = $(error ? "alerts" : "toasts");
  const note = el("div", { class: "toast" }, el("span", {}, text), el("button", { type: "button", on: { click: () => note.remove() } }, "Close"));
  region.replaceChildren(note);
  if (!error) setTimeout(() => note.remove(), 7000);
}

/** Ask before what cannot be undone, or is much; resolves to whether it was confirmed. */
export function ask({ title, text, yes, danger = false }) {
  const dialog = $("ask");
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-yes"), yes);
  $("ask-yes").classList.toggle("danger", danger);
  dialog.returnValue = "no";
  dialog.showModal();
  (danger ? $("ask-no") : $("ask-yes")).focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
