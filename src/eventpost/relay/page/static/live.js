// The stream of news, and what is asked of the relay.

import { $, say, toast } from "./dom.js";

const page = document.querySelector('meta[name="page"]');
export const root = page.content;
export const perSecond = Number(page.dataset.perS);
const listeners = new Map();
const AWAY_MS = 4000;
let stream = null;
let wanted = {};
let heardAt = 0;
let offset = 0;

/** Hear of one kind of news. */
export const on = (name, listener) => listeners.set(name, [...(listeners.get(name) ?? []), listener]);

/** Now, by the relay's clock: ages are right where this machine's is not. */
export const now = () => Date.now() / 1000 + offset;

function show(state, text) {
  $("live").dataset.state = state;
  say($("live-text"), text);
}

function open() {
  stream?.close();
  stream = new EventSource(`${root}live?${new URLSearchParams(wanted)}`);
  stream.addEventListener("hello", (event) => {
    if (JSON.parse(event.data).run !== page.dataset.run) location.reload();
  });
  for (const [name, told] of listeners) {
    stream.addEventListener(name, (event) => {
      const value = JSON.parse(event.data);
      heardAt = Date.now();
      if (name === "state") offset = value.at - heardAt / 1000;
      show("live", "Live");
      for (const listener of told) listener(value);
    });
  }
  stream.addEventListener("error", async () => {
    show("lost", "Reconnecting");
    if (stream.readyState !== EventSource.CLOSED) return;
    const answer = await fetch(`${root}letters`, { headers: { "X-Eventpost-Page": "1" } }).catch(() => null);
    if (answer?.status === 401) location.reload(); // which asks for the token
    else setTimeout(open, AWAY_MS);
  });
}

/** Begin, or begin anew with another filter for the events. */
export function connect(filter) {
  wanted = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
  open();
}

// A page that nobody sees costs nothing, and leaves the browser its few connections.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    show("wait", "Paused in the background");
  } else open();
});
setInterval(() => {
  if (!document.hidden && heardAt && Date.now() - heardAt > AWAY_MS) show("lost", "No news");
}, 1000);

/** Ask for JSON; an Error says what went wrong, in the relay's words. */
export async function get(path, query = {}) {
  return answered(await reach(`${root}${path}?${new URLSearchParams(query)}`, { headers: { "X-Eventpost-Page": "1" } }));
}

/** Have something changed. */
export async function post(path, value) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": page.dataset.token, "X-Eventpost-Page": "1" };
  return answered(await reach(root + path, { method: "POST", headers, body: JSON.stringify(value) }));
}

/** Have a file sent, by a form, so that the browser writes it as it comes. */
export function download(path, choice) {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: root + path });
  for (const [name, value] of [["csrf", page.dataset.token], ["choice", JSON.stringify(choice)]]) {
    form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
  document.body.append(form);
  form.submit();
  form.remove();
}

const reach = (url, options) => fetch(url, options).catch(() => {
  throw new Error("the relay cannot be reached");
});

async function answered(answer) {
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  throw Object.assign(new Error(value.detail ?? `the relay answered ${answer.status}`), { status: answer.status });
}

/** Do something, and say so where it fails. */
export async function attempt(what, action) {
  try {
    return await action();
  } catch (error) {
    toast(`${what}: ${error.message}`, { error: true });
    return null;
  }
}
