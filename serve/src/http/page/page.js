// The page of a running server: pictures in, answers and their times out. It talks to the server it came from and to
// nobody else, and keeps nothing beyond its own lifetime.
"use strict";

const TOP = 5;
const STAGES = ["decode", "preprocess", "queue", "inference"];
const KEPT = 240; // requests in the figures and the line
const RATE_WINDOW = 3000; // milliseconds that the throughput is counted over
const PAINT_EVERY = 100; // milliseconds
const FIRST_LANES = 4; // requests at once for what was just dropped
const MOST_PICTURES = 100; // cards on the page

const $ = (id) => document.getElementById(id);
const entries = []; // { blob, card, good }
const latencies = [];
let finished = []; // when answers came
let count = 0;
let key = "";
let repeating = 0; // changes with every start and stop
let shownScale = 0;

// ---- asking ----

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, credentials: "same-origin" });
  const body = await response.json().catch(() => null);
  if (response.status === 401 || response.status === 403) $("unlock").hidden = false;
  if (response.ok && body) return body;
  const error = new Error(body?.error?.message ?? body?.error ?? `the server answered ${response.status}`);
  error.retryAfter = response.status === 429 || response.status === 503 ? Number(response.headers.get("retry-after")) || 1 : 0;
  throw error;
}

// A link carries no key: what it leads to is fetched with it and shown in the page's place.
async function follow(path) {
  const response = await fetch(path, { headers: { authorization: `Bearer ${key}` }, credentials: "same-origin" });
  const text = await response.text();
  location.assign(URL.createObjectURL(new Blob([text], { type: "text/plain" })));
}

function classifyPath() {
  const [model, version] = JSON.parse($("models").value || "[]");
  if (!model) return `v1/classify?top=${TOP}`;
  const of = version ? `/versions/${encodeURIComponent(version)}` : "";
  return `v1/models/${encodeURIComponent(model)}${of}/classify?top=${TOP}`;
}

async function classify(blob) {
  const begun = performance.now();
  const headers = { "content-type": "application/octet-stream" };
  const answer = await ask(classifyPath(), { method: "POST", body: blob, headers });
  const now = performance.now();
  note(now - begun, now);
  return { ...answer.predictions[0], roundTrip: now - begun };
}

// ---- pictures ----

function take(blobs) {
  $("notice").textContent = "";
  const room = MOST_PICTURES - entries.length;
  const taken = [...blobs].slice(0, room);
  if (blobs.length > room) $("notice").textContent = `The page holds ${MOST_PICTURES} pictures; ${blobs.length - taken.length} were left out. Clear it for more.`;
  const added = taken.map(addCard);
  if (added.length) inLanes(added, FIRST_LANES, answerOnce);
}

function addCard(blob) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 128));
  image.addEventListener("error", () => { image.hidden = true; });
  image.src = URL.createObjectURL(blob);
  image.alt = blob.name ? `picture ${blob.name}` : "the pasted picture";
  card.querySelector("figcaption").textContent = blob.name || "pasted";
  card.classList.add("waiting");
  $("results").prepend(card);
  const entry = { blob, card, good: false };
  entries.push(entry);
  return entry;
}

async function answerOnce(entry) {
  try {
    const prediction = await classify(entry.blob);
    entry.good = true;
    show(entry.card, prediction);
  } catch (error) {
    entry.good = false;
    showFault(entry.card, error.message);
  }
}

/** Runs `work` over a list, so many at once. */
async function inLanes(list, lanes, work) {
  const waiting = [...list];
  const lane = async () => { while (waiting.length) await work(waiting.shift()); };
  await Promise.all(Array.from({ length: Math.min(lanes, list.length) }, lane));
  paintFigures();
}

// ---- answers ----

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bar(className, from, to) {
  const lane = element("div", className);
  const fill = element("i");
  fill.style.left = `${from * 100}%`;
  fill.style.width = `${Math.max(0, to - from) * 100}%`;
  lane.append(fill);
  return lane;
}

function milliseconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} µs`;
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

function show(card, prediction) {
  card.classList.remove("waiting");
  card.querySelector(".fault").hidden = true;
  card.querySelector(".labels").replaceChildren(...prediction.top.map(labelRow));
  card.querySelector(".stages").hidden = false;
  card.querySelector(".stages dl").replaceChildren(...stageRows(prediction));
}

function labelRow({ index, label, probability }) {
  const row = element("li");
  const meter = bar("bar", 0, probability);
  meter.setAttribute("role", "meter");
  meter.setAttribute("aria-label", label);
  meter.setAttribute("aria-valuemin", "0");
  meter.setAttribute("aria-valuemax", "1");
  meter.setAttribute("aria-valuenow", String(probability));
  row.dataset.index = index;
  row.append(element("span", "name", label), element("span", "share", `${(probability * 100).toFixed(1)} %`), meter);
  return row;
}

/** A bar per stage of the server, each beginning where the one before it ended; the way there and back as a figure. */
function stageRows({ times_us: times, roundTrip }) {
  const spent = STAGES.reduce((sum, stage) => sum + times[stage], 0);
  let begun = 0;
  const rows = STAGES.flatMap((stage) => {
    const whole = spent || 1;
    const lane = bar(`lane ${stage}`, begun / whole, (begun + times[stage]) / whole);
    lane.setAttribute("aria-hidden", "true");
    begun += times[stage];
    return stageRow(stage, stage, lane, times[stage] / 1000);
  });
  return [...rows, ...stageRow("HTTP and network", "rest", null, Math.max(0, roundTrip - spent / 1000))];
}

function stageRow(name, stage, lane, time) {
  const middle = element("dd");
  if (lane) middle.append(lane);
  const value = element("dd", "time", milliseconds(time));
  value.dataset.stage = stage;
  return [element("dt", lane ? "" : "wide", name), ...(lane ? [middle] : []), value];
}

function showFault(card, message) {
  card.classList.remove("waiting");
  const fault = card.querySelector(".fault");
  fault.textContent = message;
  fault.hidden = false;
  card.querySelector(".labels").replaceChildren();
  card.querySelector(".stages").hidden = true;
}

// ---- figures ----

function note(latency, now) {
  latencies.push(latency);
  if (latencies.length > KEPT) latencies.shift();
  finished.push(now);
  count += 1;
}

function quantile(share) {
  const sorted = [...latencies].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}

function rate() {
  const now = performance.now();
  finished = finished.filter((time) => now - time < RATE_WINDOW);
  if (!repeating || finished.length < 2) return "–";
  const span = finished[finished.length - 1] - finished[0];
  const value = ((finished.length - 1) / span) * 1000;
  return value.toFixed(value < 10 ? 1 : 0);
}

function paintFigures() {
  $("live").hidden = entries.length === 0;
  if (!latencies.length) return;
  $("p50").textContent = milliseconds(quantile(0.5));
  $("p95").textContent = milliseconds(quantile(0.95));
  $("rate").textContent = rate();
  $("count").textContent = count.toLocaleString("en");
  paintLine();
}

function paintLine() {
  const top = Math.max(quantile(0.99), 0.1) * 1.25;
  // The scale grows at once and shrinks slowly, so that the line does not jump.
  shownScale = Math.max(top, shownScale * 0.97);
  const step = 600 / (KEPT - 1);
  const first = 600 - (latencies.length - 1) * step;
  const points = latencies.map((latency, index) => {
    const height = Math.min(1, latency / shownScale) * 54;
    return `${(first + index * step).toFixed(1)},${(55 - height).toFixed(1)}`;
  });
  $("line").setAttribute("d", `M${points.join("L")}`);
  $("area").setAttribute("d", `M${first.toFixed(1)},56L${points.join("L")}L600,56Z`);
}

// ---- again and again ----

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function lane(run, turn) {
  while (repeating === run) {
    const good = entries.filter((entry) => entry.good);
    if (!good.length) return stop();
    const entry = good[turn.next++ % good.length];
    try {
      entry.latest = await classify(entry.blob);
    } catch (error) {
      if (!error.retryAfter) {
        $("notice").textContent = error.message;
        return stop();
      }
      await pause(error.retryAfter * 1000);
    }
  }
}

async function painter(run) {
  while (repeating === run) {
    for (const entry of entries) {
      if (entry.latest) show(entry.card, entry.latest);
      entry.latest = undefined;
    }
    paintFigures();
    await pause(PAINT_EVERY);
  }
}

let runs = 0;

function start() {
  runs += 1;
  repeating = runs;
  finished = [];
  $("notice").textContent = "";
  $("repeat").setAttribute("aria-pressed", "true");
  $("repeat").textContent = "Stop";
  // Many answers a second are nothing to read aloud.
  $("results").setAttribute("aria-live", "off");
  const turn = { next: 0 };
  for (let index = 0; index < Number($("lanes").value); index += 1) lane(repeating, turn);
  painter(repeating);
}

function stop() {
  repeating = 0;
  $("repeat").setAttribute("aria-pressed", "false");
  $("repeat").textContent = "Run again and again";
  $("results").setAttribute("aria-live", "polite");
  paintFigures();
}

function clear() {
  stop();
  entries.forEach(({ card }) => URL.revokeObjectURL(card.querySelector("img").src));
  entries.length = 0;
  latencies.length = 0;
  count = 0;
  shownScale = 0;
  $("results").replaceChildren();
  $("notice").textContent = "";
  $("live").hidden = true;
}

// ---- models ----

async function loadModels() {
  try {
    const { models } = await ask("v1/models");
    const options = models.flatMap(modelOptions);
    $("models").replaceChildren(...options);
    $("choice").hidden = options.length < 2;
    describe(models);
    $("models").onchange = () => { describe(models); again(); };
  } catch (error) {
    $("notice").textContent = error.message;
  }
}

function modelOptions({ name, versions = [] }) {
  const ready = versions.filter(({ state }) => state === "ready");
  const latest = new Option(name, JSON.stringify([name]));
  if (ready.length < 2) return [latest];
  return [latest, ...ready.map(({ version }) => new Option(`${name}, version ${version}`, JSON.stringify([name, version])))];
}

function describe(models) {
  const [name, version] = JSON.parse($("models").value || "[]");
  const model = models.find((model) => model.name === name);
  if (!model?.input) return;
  const engine = model.versions?.find((found) => found.version === version)?.engine ?? model.engine;
  const { width, height, channels } = model.input;
  const parts = [
    $("choice").hidden ? name : null,
    `${model.labels.length} classes`,
    `${width} × ${height} ${channels === 1 ? "gray" : "color"}`,
    `engine ${engine}`,
  ];
  $("model").textContent = parts.filter(Boolean).join(" · ");
}

/** The pictures on the page, asked of another model. */
function again() {
  latencies.length = 0;
  shownScale = 0;
  if (!repeating && entries.length) inLanes(entries, FIRST_LANES, answerOnce);
}

// ---- hands ----

/** Files of a drop or of the clipboard, folders and text left out. */
function filesOf(transfer) {
  return [...(transfer?.items ?? [])].filter(({ kind }) => kind === "file").map((item) => item.getAsFile()).filter(Boolean);
}

function listen() {
  const drop = $("drop");
  const over = (event) => { event.preventDefault(); drop.classList.add("over"); };
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (files.length) take(files);
  });
  $("files").addEventListener("change", () => { take($("files").files); $("files").value = ""; });
  $("repeat").addEventListener("click", () => (repeating ? stop() : start()));
  $("lanes").addEventListener("change", () => { if (repeating) start(); });
  $("clear").addEventListener("click", clear);
  $("links").addEventListener("click", (event) => {
    const path = event.target.getAttribute("href");
    if (!key || !path) return;
    event.preventDefault();
    follow(path).catch((error) => { $("notice").textContent = error.message; });
  });
  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    key = $("key").value;
    $("unlock").hidden = true;
    $("notice").textContent = "";
    loadModels();
    again();
  });
}

listen();
loadModels();
