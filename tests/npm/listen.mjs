// node listen.mjs URL PROTOCOL(4|5) [CA CERT KEY]; stdout: one JSON object a message, "ready" first.
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const [url, version, ca, cert, key] = process.argv.slice(2);
const tls = ca ? { ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key) } : {};
const client = mqtt.connect(url, { protocolVersion: Number(version), reconnectPeriod: 0, ...tls });
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
client.on("message", (topic, payload, { qos, retain }) =>
  say({ topic, body: payload.toString("base64"), qos, retain }),
);
client.on("error", (error) => {
  say({ error: String(error) });
  process.exit(1);
});
client.on("connect", () => client.subscribe("#", { qos: 1 }, () => say("ready")));
