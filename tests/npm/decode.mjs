// stdin: one payload a line, in hexadecimal; stdout: what sparkplug-payload reads, a JSON list.
import { readFileSync } from "node:fs";
import sparkplug from "sparkplug-payload";

const codec = sparkplug.get("spBv1.0");
const plain = (_, value) =>
  value !== null && typeof value === "object" && "low" in value && "high" in value
    ? (BigInt(value.high >>> 0) * 2n ** 32n + BigInt(value.low >>> 0)).toString()
    : value;
const lines = readFileSync(0, "utf8").split("\n").filter(Boolean);
const read = lines.map((line) => codec.decodePayload(Buffer.from(line, "hex")));
process.stdout.write(JSON.stringify(read, plain));
