// stdin: {"timestamp": ms, "metrics": [...]}; stdout: the payload by sparkplug-payload, hexadecimal.
import { readFileSync } from "node:fs";
import sparkplug from "sparkplug-payload";

const payload = JSON.parse(readFileSync(0));
process.stdout.write(
  Buffer.from(sparkplug.get("spBv1.0").encodePayload(payload)).toString("hex"),
);
