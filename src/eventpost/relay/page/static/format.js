// Numbers and times for people.

const whole = new Intl.NumberFormat("en-US");
const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** Large numbers in little room: 12,345 as 12.3k. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10 && value % 1) return value.toFixed(1);
  if (value < 10000) return whole.format(Math.round(value));
  const [unit, size] = value < 1e6 ? ["k", 1e3] : ["M", 1e6];
  return `${(value / size).toFixed(value / size < 100 ? 1 : 0)}${unit}`;
}

/** A latency: 840 µs, 12 ms, 1.4 s. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${seconds < 0.01 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000)} ms`;
  return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

/** A duration: 4 s, 12 min, 3 h, 2 d. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  const step = Math.min(3, Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** step).toFixed(1)} ${["KiB", "MiB", "GiB"][step - 1]}`;
}

export const clock = (epoch) => time.format(epoch * 1000);
export const moment = (epoch) => day.format(epoch * 1000);

/** A moment, without its day if that is today. */
export const when = (epoch) => (new Date(epoch * 1000).toDateString() === new Date().toDateString() ? clock(epoch) : moment(epoch));
export const byReason = (counts) => Object.entries(counts).filter(([, value]) => value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([reason, value]) => `${reason} ${count(value)}`).join(", ");
