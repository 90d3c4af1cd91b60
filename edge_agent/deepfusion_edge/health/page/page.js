"use strict";
// Everything that comes from the agent becomes a text node or an attribute's value, never markup:
// names of frames are chosen by whoever sends them.

const POLL_MS = 2000;
const TIMEOUT_MS = 8000;
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const show = (id, ...children) => byId(id).replaceChildren(...children);
const empty = (text) => el("p", { class: "empty" }, text);

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 1e-4) return "< 0.0001";
  return Number(value).toLocaleString("en", { maximumSignificantDigits: digits, useGrouping: true });
}
const count = (value) => Number(value ?? 0).toLocaleString("en");
function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}
const bytes = (value) => (value >= 2 ** 30 ? `${number(value / 2 ** 30)} GiB` : `${number(value / 2 ** 20)} MiB`);
const clock = (text) => new Date(text).toLocaleTimeString("en-GB");
const moment = (text) => `${new Date(text).toLocaleDateString("en-CA")} ${clock(text)}`;
const sum = (list, key) => list.reduce((total, item) => total + item[key], 0);
const KIND = { accept: "good", suspect: "warn", reject: "bad", unreadable: "bad", failed: "bad" };

function pairs(rows) {
  const list = rows.filter((row) => row && row[1] !== null && row[1] !== undefined);
  return el("dl", {}, ...list.flatMap(([name, value, kind]) => [el("dt", {}, name), el("dd", { class: kind ?? "" }, value)]));
}

function table(heads, rows) {
  const mark = (head) => ({ class: head.startsWith("#") ? "n" : "" });
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", mark(head), head.replace("#", ""))))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, at) =>
      cell instanceof Node ? cell : el("td", mark(heads[at]), String(cell)))))));
}

function drawHead(data) {
  const state = data.state, warnings = [];
  if (data.broker) warnings.push(`No broker: ${data.broker}. Events wait in the outbox.`);
  warnings.push(...data.device.throttled.map((text) => `Device: ${text}.`));
  const level = data.ailments.length ? "bad" : warnings.length ? "warn" : "good";
  byId("head").dataset.level = level;
  const words = { bad: "Needs help", warn: "Judging, with a warning", good: "Judging" };
  byId("level").textContent = words[level];
  byId("agent").textContent = state.agent || "deepfusion agent";
  document.title = `${words[level]} · ${state.agent || "deepfusion agent"}`;
  byId("since").textContent = `up ${span(data.uptime_s)} · ${moment(data.time)}`;
  const lines = [...data.ailments, ...warnings];
  byId("reasons").hidden = !lines.length;
  byId("reasons").className = `wide ${level}`;
  show("reasons", el("ul", {}, ...lines.map((line) => el("li", {}, line))));
  byId("version").textContent = `deepfusion-edge ${data.version}`;
}

function drawFigures(data) {
  const hour = data.trend, judged = sum(hour, "judged");
  const recent = hour.filter((step) => step.at >= data.time_s - 60 - data.step_s);
  const seconds = recent.length ? Math.max(1, Math.min(data.uptime_s, data.time_s - recent[0].at)) : 1;
  const all = Object.values(data.counts), of = (kind) => sum(all.map((c) => ({ n: c[kind] ?? 0 })), "n");
  const heat = Math.max(...data.device.zones.map((zone) => zone.celsius));
  const figure = (value, text, kind = "") => el("div", { class: "figure" }, el("b", { class: kind }, value), el("span", {}, text));
  const bad = of("reject") + of("failed") + of("unreadable"), kept = data.state.counters?.kept ?? 0;
  show("figures",
    figure(`${number(sum(recent, "frames") / seconds, 2)}/s`, "frames, last minute"),
    figure(count(of("accept")), "accepted", "good"),
    figure(count(of("suspect")), "suspect", of("suspect") ? "warn" : ""),
    figure(count(bad), "rejected or unreadable", bad ? "bad" : ""),
    figure(judged ? `${number(sum(hour, "latency_ms") / judged)} ms` : "–", "mean latency, last hour"),
    figure(count(kept), "events waiting", data.broker && kept ? "warn" : ""),
    Number.isFinite(heat) ? figure(`${heat.toFixed(0)} °C`, "hottest zone", data.device.throttled.length ? "warn" : "") : null ?? "");
}

// The mean as a line, the largest value of each step as a band above it.
function drawTrend(id, data, key, unit) {
  const steps = data.trend.filter((step) => step.judged > 0);
  if (!steps.length) return show(id, empty("No frame was judged yet."));
  const width = Math.max(240, byId(id).clientWidth), [height, left, bottom, top] = [176, 46, 22, 8];
  const end = Math.floor(data.time_s / data.step_s) * data.step_s;
  const minutes = Math.min((data.step_s * data.steps) / 60, Math.max(6, 2 * Math.ceil(data.uptime_s / 120)));
  const highest = steps.map((step) => step[`${key}_max`]).sort((a, b) => a - b);
  // One slow first frame must not flatten the rest: the highest few leave the picture at its top.
  const usual = highest[Math.floor(0.97 * (highest.length - 1))];
  const most = Math.max(usual, ...steps.map((step) => 1.1 * (step[key] / step.judged))) || 1;
  const x = (at) => left + (width - left) * Math.max(0, 1 - (end - at) / (60 * minutes));
  const y = (value) => top + (height - bottom - top) * (1 - Math.min(1, value / most));
  const mean = (step) => step[key] / step.judged;
  const runs = [];
  for (const step of steps) {
    const last = runs.at(-1);
    if (last && step.at - last.at(-1).at <= 2 * data.step_s) last.push(step);
    else runs.push([step]);
  }
  const line = (run, value) => run.map((step) => `${x(step.at).toFixed(1)},${y(value(step)).toFixed(1)}`);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${id}, last hour` });
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", { class: "grid", x1: left, x2: width, y1: y(share * most), y2: y(share * most) }),
      svg("text", { x: left - 6, y: y(share * most) + 4, "text-anchor": "end" }, number(share * most, 2)));
  }
  for (const [ago, anchor] of [[minutes, "start"], [minutes / 2, "middle"], [0, "end"]]) {
    picture.append(svg("text", { x: x(end - 60 * ago), y: height - 4, "text-anchor": anchor }, ago ? `-${ago} min` : "now"));
  }
  for (const run of runs) {
    const upper = line(run, (step) => step[`${key}_max`]), lower = line(run, mean);
    if (run.length === 1) picture.append(svg("circle", { class: "dot", cx: x(run[0].at), cy: y(mean(run[0])), r: 3 }));
    picture.append(svg("polygon", { class: "most", points: [...upper, ...lower.slice().reverse()].join(" ") }),
      svg("polyline", { class: "mean", points: lower.join(" ") }));
  }
  const say = (step) => `${clock(step.at * 1000)}: mean ${number(mean(step))}, highest ${number(step[`${key}_max`])} ${unit}, ${count(step.frames)} ${step.frames === 1 ? "frame" : "frames"}, ${count(step.notable)} not accepted`;
  const words = el("p", {}, say(steps.at(-1)));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    words.textContent = say(steps.reduce((a, b) => (Math.abs(x(b.at) - at) < Math.abs(x(a.at) - at) ? b : a)));
  });
  show(id, picture, words);
}

function drawSources(data) {
  const names = Object.keys(data.state.sources ?? {});
  if (!names.length) return show("sources", empty("No source runs yet."));
  show("sources", table(["Source", "State", "#Accept", "#Suspect", "#Reject", "#Unreadable", "#Dropped", "#Late", "#Refused", "Last frame"],
    names.map((name) => {
      const source = data.state.sources[name], counts = data.counts[name] ?? {}, well = ["connected", "ended"].includes(source.state);
      const reason = source.reason ? `: ${source.reason}` : "";
      return [el("td", { class: "free" }, el("b", {}, name)), el("td", { class: `free ${well ? "good" : "bad"}` }, source.state + reason),
        count(counts.accept), count(counts.suspect), count((counts.reject ?? 0) + (counts.failed ?? 0)), count(counts.unreadable),
        count(source.dropped), count(source.late), count(source.refused),
        data.last_s[name] ? `${span(data.time_s - data.last_s[name])} ago` : "none yet"];
    })));
}

function frame(seen, thumbnails) {
  const alt = `${seen.state}: ${seen.frame}`;
  const picture = seen.picture ? el("img", { src: `/picture/${seen.number}`, alt, loading: "lazy" })
    : el("div", { class: "none" }, thumbnails ? "no picture" : "pictures are off");
  const scores = seen.disagreement === null ? [seen.problem ?? ""]
    : [`${seen.class_name} ${number(seen.confidence)}`, el("br"), `disagreement ${number(seen.disagreement, 2)}`];
  return el("article", { class: `frame ${seen.state}` }, picture, el("div", { class: "text" },
    el("b", { class: KIND[seen.state] ?? "" }, seen.state), el("br"), ...scores,
    el("div", { class: "soft" }, `${clock(seen.time)} · ${number(seen.latency_ms)} ms · ${seen.source}`),
    el("div", { class: "name", title: seen.frame }, seen.frame)));
}

// Pictures that are there already are kept: no flicker, no second request.
function drawFrames(id, list, data, text) {
  const holder = byId(id), shown = `${data.begun} ${list.map((seen) => seen.number)}`;
  if (holder.dataset.shown === shown) return;
  holder.dataset.shown = shown;
  const known = new Map([...holder.children].map((node) => [node.dataset.key, node]));
  show(id, ...(list.length ? list.map((seen) => {
    const key = `${data.begun} ${seen.number}`, node = known.get(key) ?? frame(seen, data.thumbnails);
    node.dataset.key = key;
    return node;
  }) : [empty(text)]));
}

function drawAlerts(data) {
  if (!data.alerts.length) return show("alerts", empty("None in this run."));
  show("alerts", el("ul", { class: "list" }, ...data.alerts.map((alert) => el("li", {},
    el("b", {}, alert.kind), el("span", { class: "soft" }, ` ${moment(alert.time)}${alert.source ? ` · ${alert.source}` : ""}${alert.frame ? ` · ${alert.frame}` : ""}`),
    el("br"), alert.reason,
    alert.suppressed ? el("div", { class: "soft" }, `and ${count(alert.suppressed)} more since ${moment(alert.since)}`) : ""))));
}

function drawDevice(data) {
  const device = data.device, most = (limit) => (limit === null ? "" : ` of ${number(limit, 4)}`);
  const rows = [
    ["Throttled", device.throttled.length ? device.throttled.join("; ") : "no sign of it", device.throttled.length ? "warn" : "good"],
    ["Power mode", device.power_mode],
    ...device.zones.map((zone) => [zone.name, `${zone.celsius.toFixed(1)}${zone.trip_celsius === null ? "" : ` of ${zone.trip_celsius.toFixed(0)}`} °C`]),
    ...device.clocks.map((clock) => [clock.name, `${number(clock.mhz, 4)}${most(clock.max_mhz)} MHz${clock.busy === null ? "" : `, ${(100 * clock.busy).toFixed(0)} % busy`}`]),
    device.over_current === null ? null : ["Over-current events", count(device.over_current)],
    device.rss_bytes === null ? null : ["Memory, this agent", bytes(device.rss_bytes)],
    device.available_bytes === null ? null : ["Memory, free", `${bytes(device.available_bytes)} of ${bytes(device.total_bytes ?? 0)}`],
  ];
  if (!device.zones.length && !device.clocks.length) rows[0] = ["Sensors", "this device shows no temperature and no clocks"];
  show("device", pairs(rows));
}

function drawOutbox(data) {
  const counters = data.state.counters;
  show("outbox", pairs([
    ["Broker", data.broker ? `not connected: ${data.broker}` : "connected", data.broker ? "warn" : "good"],
    ...(counters ? [["Waiting", count(counters.kept)], ["Oldest", counters.kept ? span(counters.oldest_age_s) : "–"], ["Sent", count(counters.sent)],
      ["Dropped", count(counters.dropped), counters.dropped ? "warn" : ""], ["Expired", count(counters.expired), counters.expired ? "warn" : ""]] : []),
  ]));
}

function drawBundle(data) {
  const bundle = data.state.bundle;
  if (!bundle) show("bundle", empty("No bundle judges yet."));
  else show("bundle", pairs([["Line", bundle.id], ["Sequence", String(bundle.sequence)], ["SHA-256", bundle.digest], ["Runs on", data.state.provider ?? "–"]]));
  if (!data.history.length) return show("history", empty("No bundle was changed while this agent ran."));
  const kind = { kept: "good", installed: "good", "on probation": "warn", "rolled back": "bad", refused: "bad" };
  show("history", table(["Time", "Line", "#Sequence", "SHA-256", "Result", "Reason"], data.history.map((entry) => [
    entry.time ? moment(entry.time) : "–", el("td", { class: "free" }, entry.id ?? "–"), entry.sequence ?? "–",
    (entry.digest ?? "–").slice(0, 12), el("td", { class: kind[entry.result] ?? "" }, entry.result ?? "–"),
    el("td", { class: "free" }, entry.reason || "–")])));
}

function draw(data) {
  byId("main").hidden = false;
  drawHead(data);
  drawFigures(data);
  drawTrend("latency", data, "latency_ms", "ms");
  drawTrend("disagreement", data, "disagreement", "nats");
  drawSources(data);
  drawFrames("notable", data.notable, data, "None so far.");
  drawFrames("last", data.last, data, "No frame was judged yet.");
  drawAlerts(data);
  drawDevice(data);
  drawOutbox(data);
  drawBundle(data);
}

let heard = null;
async function poll() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    draw(await answer.json());
    heard = Date.now();
  } catch (error) {
    byId("head").dataset.level = "bad";
    byId("level").textContent = "No answer from the agent";
    byId("since").textContent = heard ? `last heard of ${span((Date.now() - heard) / 1000)} ago; what is shown is old` : String(error.message);
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}
poll();
