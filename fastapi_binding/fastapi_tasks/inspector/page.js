// The page of the inspector: it reads the event stream, keeps what the history has told, and draws it.
// Names, messages and paths are users' data. They become text nodes and nothing else.

import { el, messageOf, reconcile, said, seconds, clock, matcher, GLYPHS } from "./page-parts.js";
import { drawChart } from "./waterfall.js";

const $ = (id) => document.getElementById(id);

const MOST_ENTRIES = 100; // rows of the list of requests
const SILENCE = 8000; // milliseconds without a word from the server: it does not answer
const MEMORY = 60000; // milliseconds: a worker that tells nothing for so long has gone, or another one serves this tab
const FIRST_WAIT = 300; // milliseconds between two streams
const LONGEST_WAIT = 4000; // milliseconds between two attempts to reach the server

/** What each worker has told, by its id. With several workers each stream may reach another one. */
const workers = new Map();
/** What the journal had at the last look of any worker: all have the same file. Undefined without a journal. */
let journal;
/** Its part of the page, which is loaded with the first one. */
let drawJournal = null;
let shownWorker = null;

// ---- What the user has chosen; it is kept in the address, so that it outlives a reload ----

const choice = { q: "", status: "", show: "", scale: "all" };

function readChoice() {
  const told = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(choice)) choice[key] = told.get(key) ?? choice[key];
  $("search").value = choice.q;
  $("status").value = choice.status;
  for (const radio of document.querySelectorAll("[name=scale]")) radio.checked = radio.value === choice.scale;
}

function choose(changes) {
  Object.assign(choice, changes);
  const told = new URLSearchParams();
  for (const [key, value] of Object.entries(choice)) if (value && value !== "all") told.set(key, value);
  history.replaceState(null, "", told.size ? `#${told}` : location.pathname + location.search);
  draw();
}

// ---- The stream ----

/** Since when the server does not answer, as `Date.now()`; null while it does. */
let lostAt = null;
/** Why the page could not be drawn; "" if it was. */
let flaw = "";

function tell(state, text, notice = flaw) {
  const line = $("state");
  if (line.dataset.state !== state || line.textContent !== text) {
    line.dataset.state = state;
    line.textContent = text;
  }
  $("notice").hidden = !notice;
  if ($("notice").textContent !== notice) $("notice").textContent = notice;
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function visible() {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

class Refused extends Error {}

async function readStream() {
  const stop = new AbortController();
  const hide = () => document.hidden && stop.abort();
  document.addEventListener("visibilitychange", hide);
  let timer;
  const hear = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(), SILENCE);
  };
  hear();
  try {
    const after = [...workers.values()].map((worker) => worker.cursor).join(",");
    // Not relative: a page whose address has a name and a password may not fetch such addresses.
    const events = `${location.origin}${location.pathname}events`;
    const answer = await fetch(`${events}?after=${encodeURIComponent(after)}`, { signal: stop.signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 403 || answer.redirected) throw new Refused(`${answer.status}`);
    if (!answer.ok || !answer.headers.get("content-type")?.startsWith("text/event-stream"))
      throw new Error(`${answer.status}`);
    await readEvents(answer.body.pipeThrough(new TextDecoderStream()).getReader(), hear);
  } finally {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", hide);
  }
}

async function readEvents(reader, hear) {
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    hear();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: "));
      if (data.length) take(JSON.parse(data.map((line) => line.slice(6)).join("\n")));
    }
    tell("live", shown()?.head.draining ? "Draining" : "Live");
  }
}

async function follow() {
  let wait = FIRST_WAIT;
  for (;;) {
    if (document.hidden) {
      tell("paused", "Paused");
      await visible();
      for (const worker of workers.values()) worker.heard = Date.now(); // a hidden tab hears of no worker
    }
    try {
      await readStream();
      wait = FIRST_WAIT;
    } catch (error) {
      if (document.hidden) continue;
      if (error instanceof Refused) {
        tell("lost", "Refused", "The server refuses this page. Sign in again, then reload the page.");
        return;
      }
      lostAt ??= Date.now();
      tell("lost", "No answer", `No answer from the server since ${clock(lostAt / 1000)}. The page tries again.`);
      wait = Math.min(wait * 1.6, LONGEST_WAIT);
    }
    await sleep(wait);
  }
}

/** Keep a picture: all tasks of a worker, or those that have ended since the last picture. */
function take(picture) {
  let worker = workers.get(picture.worker);
  if (!worker || picture.whole) {
    worker = { tasks: new Map(), requests: new Map() };
    if (lostAt !== null) workers.clear(); // a server that comes back is another worker
    workers.set(picture.worker, worker);
  }
  lostAt = null;
  worker.head = picture;
  if (picture.whole || picture.journal) journal = picture.journal;
  if (journal && !drawJournal) loadJournal();
  worker.cursor = picture.cursor;
  worker.skew = picture.now - Date.now() / 1000;
  worker.heard = Date.now();
  for (const [id, { heard }] of workers) if (worker.heard - heard > MEMORY) workers.delete(id);
  for (const request of picture.requests) worker.requests.set(request.id, request);
  for (const task of picture.tasks) worker.tasks.set(task.id, task);
  const excess = worker.tasks.size - picture.keep;
  for (const id of [...worker.tasks.keys()].slice(0, Math.max(0, excess))) worker.tasks.delete(id);
  const used = new Set([...worker.tasks.values(), ...picture.alive].map((task) => task.request));
  for (const id of worker.requests.keys()) if (!used.has(id)) worker.requests.delete(id);
  if (!workers.has(shownWorker)) shownWorker = picture.worker;
  if (picture.worker === shownWorker) draw();
  else drawWorkers();
}

function loadJournal() {
  drawJournal = () => {};
  import("./journal.js").then(
    (part) => {
      drawJournal = part.drawJournal;
      draw();
    },
    () => (drawJournal = null)); // the next picture tries again
}

// ---- The parts of the page ----

const shown = () => workers.get(shownWorker);
const nowOf = (worker) => Date.now() / 1000 + worker.skew;

/** Requests with their tasks, and trees of tasks outside of requests; the newest first. */
function entriesOf(worker) {
  const tasks = new Map([...worker.head.alive.map((task) => [task.id, task]), ...worker.tasks]);
  const entries = new Map();
  const roots = new Map(); // most parents come first: so a long chain of tasks is not followed again for each task
  for (const task of tasks.values()) {
    let root = task;
    while (root.request === null && tasks.has(root.parent)) root = roots.get(root.parent) ?? tasks.get(root.parent);
    roots.set(task.id, root);
    const request = worker.requests.get(root.request) ?? null;
    const key = request ? `r${request.id}` : `t${root.id}`;
    if (!entries.has(key)) entries.set(key, { key, request, root, tasks: [], at: request?.began ?? root.scheduled });
    entries.get(key).tasks.push(task);
  }
  return [...entries.values()].sort((a, b) => b.at - a.at || b.root.id - a.root.id);
}

const titleOf = ({ request, root }) =>
  request ? [request.method, request.path].filter(Boolean).join(" ") || request.label || "a unit of work" : root.name ?? root.function;

/** An error here is a fault of the page, and not of the server. */
function draw() {
  try {
    drawAll();
    flaw = "";
  } catch (error) {
    flaw = `This page has a fault, and does not show everything: ${error}`;
    reportError(error);
  }
}

function drawAll() {
  drawWorkers();
  const worker = shown();
  if (!worker) return;
  drawCounts(worker.head);
  const matches = matcher(choice);
  const all = entriesOf(worker);
  const found = all.filter((entry) => matches(entry.tasks, [titleOf(entry), entry.request?.route]));
  drawEntries(found, all.length);
  drawChosen(all, found, worker);
  drawAlive(worker, matches);
  drawJournal?.(journal, matches);
  drawFailures(worker, matches, all);
}

function drawWorkers() {
  const place = $("worker");
  if (workers.size < 2) {
    const worker = shown();
    place.replaceChildren(worker ? `pid ${worker.head.pid}` : "");
    return;
  }
  if (place.contains(document.activeElement)) return;
  const select = el("select", { id: "pid" });
  for (const [id, worker] of workers)
    select.append(el("option", { value: id, selected: id === shownWorker }, `${worker.head.pid}`));
  select.addEventListener("change", () => {
    shownWorker = select.value;
    select.blur();
    draw();
  });
  place.replaceChildren(el("label", { for: "pid" }, `${workers.size} workers; this is pid `), select);
}

function drawCounts(head) {
  const { counts, durations } = head;
  const hasJournal = journal !== undefined;
  const hasQueues = counts.handing_over + counts.handed_over > 0;
  const refused = head.refused.reduce((sum, row) => sum + row[3], 0);
  const rows = [
    ["running", counts.running], ["waiting", counts.waiting], ["limited", counts.limited],
    ["delayed", counts.delayed], ["deferred", counts.deferred], ["retrying", counts.retrying],
    ...(hasQueues ? [["handing over", counts.handing_over]] : []),
    ...(hasJournal ? [["recording", counts.recording], ["recovered", counts.recovered]] : []),
    ["succeeded", counts.succeeded, "succeeded"], ["failed", counts.failed, "failed"],
    ["cancelled", counts.cancelled, "cancelled"], ["dropped", counts.dropped, "dropped"],
    ...(hasQueues ? [["handed over", counts.handed_over, "handed_over"]] : []),
    ["refused", refused, "failed"],
    ["p50", durations ? seconds(durations.p50) : "–"], ["p99", durations ? seconds(durations.p99) : "–"],
  ];
  reconcile($("counts"), rows, {
    key: ([name]) => name,
    sign: ([, value]) => String(value),
    build: ([name, value, kind]) =>
      el("div", { class: value ? kind ?? "" : "none" }, el("dt", {}, name), el("dd", {}, String(value))),
  });
}

function drawEntries(found, total) {
  const chosen = choice.show || found[0]?.key;
  reconcile($("entries"), found.slice(0, MOST_ENTRIES), {
    key: (entry) => entry.key,
    sign: (entry) => JSON.stringify([entry.key === chosen, entry.request, entry.tasks.map((task) => [task.id, task.status, task.ended])]),
    build: (entry) => entryRow(entry, entry.key === chosen),
  });
  $("newest").hidden = !choice.show;
  const none = $("no-entries");
  none.hidden = found.length > 0;
  none.textContent = total
    ? "No request matches the filter."
    : "No task so far. Is the History in add_tasks(app, observers=[...])?";
}

function entryRow(entry, isChosen) {
  const counts = new Map();
  for (const task of entry.tasks) {
    const kind = task.ended === null ? "alive" : task.status;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  const marks = Object.keys(GLYPHS).filter((kind) => counts.has(kind)).map((kind) => [kind, counts.get(kind)]).map(([kind, count]) =>
    el("span", { class: `mark ${kind}`, title: `${count} ${said(kind)}` },
      el("span", { "aria-hidden": "true" }, `${GLYPHS[kind]}${count}`), el("span", { class: "unseen" }, `${count} ${said(kind)} `)));
  const button = el("button", { type: "button", "aria-current": isChosen ? "true" : null, "data-focus": "" },
    el("span", { class: "title" }, titleOf(entry)),
    el("time", {}, clock(entry.at)),
    el("span", { class: "marks" }, ...marks),
    entry.request?.outcome === "failed" ? el("span", { class: "mark failed" }, "route failed") : "",
    entry.request ? "" : el("span", { class: "quiet" }, "outside of a request"));
  button.addEventListener("click", () => {
    choose({ show: entry.key });
    if (matchMedia("(max-width: 960px)").matches) $("chosen-title").focus();
  });
  return el("li", {}, button);
}

function drawChosen(all, found, worker) {
  const entry = choice.show ? all.find(({ key }) => key === choice.show) : found[0];
  const title = $("chosen-title");
  if (!entry) {
    title.textContent = "Waterfall";
    $("chosen-facts").textContent = choice.show ? "This request is no longer in the history." : "";
    $("chart").replaceChildren();
    $("legend").hidden = $("scale").hidden = true;
    return;
  }
  const { request } = entry;
  title.textContent = titleOf(entry);
  const facts = [];
  if (request?.route && request.route !== request.path) facts.push(request.route);
  if (request?.outcome) facts.push(`route ${request.outcome} at ${seconds(request.route_ended)}`);
  if (request?.first_message != null) facts.push(`first message at ${seconds(request.first_message)}`);
  if (request?.ended != null) facts.push(`over at ${seconds(request.ended)}`);
  if (!request) facts.push("outside of a request");
  $("chosen-facts").textContent = facts.join(" · ");
  $("scale").hidden = request?.ended == null;
  $("legend").hidden = false;
  drawChart($("chart"), entry, { now: nowOf(worker), scale: choice.scale });
}

function drawAlive(worker, matches) {
  const { alive, more_alive: more } = worker.head;
  const found = alive.filter((task) => matches([task], []));
  reconcile($("alive-rows"), found, {
    key: (task) => String(task.id),
    sign: (task) => JSON.stringify([task.status, task.attempt, task.where]),
    build: aliveRow,
  });
  $("alive-table").hidden = !found.length;
  const none = $("no-alive");
  none.textContent = found.length ? `And ${more} younger tasks.` : alive.length ? "No task matches the filter." : "No task is alive.";
  none.hidden = found.length > 0 && !more;
  tick();
}

function aliveRow(task) {
  const cell = (label, ...content) => el("td", { role: "cell", "data-label": label }, ...content);
  const name = task.name ?? task.function;
  return el("tr", { role: "row" },
    cell("Task", el("strong", {}, name),
      name === task.function ? "" : el("span", { class: "quiet" }, task.function),
      task.message_id ? el("span", { class: "quiet" }, messageOf(task)) : "",
      task.arguments ? el("code", {}, task.arguments) : ""),
    cell("Status", el("span", { class: "mark alive" }, said(task.status)), el("span", { class: "quiet" }, task.recovered ? `${task.phase}, recovered` : task.phase)),
    cell("Age", el("time", { class: "age", "data-at": task.scheduled })),
    cell("Attempt", task.attempt ? String(task.attempt) : "–"),
    cell("Shield", task.shield === false ? "–" : task.shield === true ? "yes" : seconds(task.shield)),
    cell("Where it waits", task.where.length ? el("ol", { class: "where" }, ...task.where.map((line) => el("li", {}, el("code", {}, line)))) : "–"));
}

function drawFailures(worker, matches, entries) {
  const { failures, refused } = worker.head;
  const rows = [
    ...failures.map((row) => ({ ...row, kind: "failed" })),
    ...refused.map(([name, error, message, count]) => ({ function: name, error, message, count, where: "", kind: "refused", last: null })),
  ];
  const keys = new Map(entries.flatMap(({ key, tasks }) => tasks.map(({ id }) => [id, key])));
  const keyOf = (row) => keys.get(row.task) ?? (worker.requests.has(row.request) ? `r${row.request}` : null);
  const found = rows.filter((row) => matches([{ ...row, name: null, status: "failed", ended: 0, error: [row.error, row.message, row.where] }], []));
  reconcile($("groups"), found, {
    key: (row) => JSON.stringify([row.kind, row.function, row.error, row.where]),
    sign: (row) => JSON.stringify([row.count, row.last, row.message, keyOf(row)]),
    build: (row) => failureRow(row, keyOf(row)),
  });
  const none = $("no-failures");
  none.hidden = found.length > 0;
  none.textContent = rows.length ? "No failure matches the filter." : "No failure.";
  tick();
}

function failureRow(row, key) {
  const show = el("button", { type: "button", "data-focus": "" }, key?.startsWith("r") ? "Show the last request" : "Show the last task");
  show.addEventListener("click", () => {
    choose({ show: key });
    $("chosen-title").focus();
  });
  return el("li", {},
    el("span", { class: "count" }, String(row.count), el("span", { class: "unseen" }, " times")),
    el("div", {},
      el("p", {}, el("strong", {}, row.error), ` in ${row.function}`, row.kind === "refused" ? ", refused by schedule()" : ""),
      row.message ? el("p", { class: "message" }, row.message) : "",
      row.where ? el("p", {}, el("code", {}, row.where)) : "",
      el("p", { class: "quiet" }, row.last ? el("time", { class: "ago", "data-at": row.last, "data-word": "last " }) : "", key ? show : "")));
}

/** Write the texts that change with the time. */
function tick() {
  const worker = shown();
  if (!worker) return;
  const now = nowOf(worker);
  for (const time of document.querySelectorAll("time[data-at]")) {
    const passed = Math.max(0, now - Number(time.dataset.at));
    const text = time.className === "ago" ? `${time.dataset.word ?? ""}${seconds(passed, true)} ago` : seconds(passed, true);
    if (time.textContent !== text) time.textContent = text;
  }
}

readChoice();
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("search").addEventListener("input", () => choose({ q: $("search").value }));
$("status").addEventListener("change", () => choose({ status: $("status").value }));
$("newest").addEventListener("click", () => choose({ show: "" }));
$("scale").addEventListener("change", (event) => choose({ scale: event.target.value }));
addEventListener("hashchange", () => {
  readChoice();
  draw();
});
setInterval(() => {
  if (document.hidden || $("state").dataset.state !== "live") return;
  tick();
  if ($("chart").dataset.alive === "true") draw();
}, 1000);
follow();
