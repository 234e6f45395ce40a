// The program around the page's file: see sdks.py for what it reads and says.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { NOTIFICATION_TYPES } from "@optimizely/optimizely-sdk";
import { newClient } from "./relay.mjs";

const [datafile, relayUrl] = process.argv.slice(2);
const client = newClient(readFileSync(datafile, "utf8"), relayUrl, process.env.RELAY_TOKEN);
await client.onReady();
client.notificationCenter.addNotificationListener(NOTIFICATION_TYPES.LOG_EVENT, ({ params }) => {
  for (const { snapshots } of params.visitors)
    for (const { events } of snapshots) for (const { uuid } of events) console.log("uuid", uuid);
});
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [first, count] = line.split(" ").map(Number);
  for (let number = first; number < first + count; number++) {
    const user = client.createUserContext(`visitor-é-${number}`, { plan: "gold", country: "日本" });
    user.decide("checkout_flow");
    user.trackEvent("purchase", { revenue: number, value: 0.25, note: "café ☕ 北京" });
  }
}
await client.close();
console.log("closed");
