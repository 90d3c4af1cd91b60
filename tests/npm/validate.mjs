// stdin: {"schema": {...}, "values": [...]}; stdout: for each value, null or why ajv refuses it.
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";

const { schema, values } = JSON.parse(readFileSync(0));
const validate = new Ajv2020({ strict: true, allowUnionTypes: true }).compile(schema);
const found = values.map((value) => (validate(value) ? null : JSON.stringify(validate.errors)));
process.stdout.write(JSON.stringify(found));
