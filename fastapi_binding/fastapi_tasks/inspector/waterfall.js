// The waterfall of one request: what it does, and below it what each of its tasks waits for and does.

import { el, messageOf, reconcile, said, seconds, GLYPHS } from "./page-parts.js";

const MOST_ROWS = 60; // a request may schedule thousands
const STEPS = [1, 2, 5];

const WORDS = {
  record: "waits for its journal",
  start: "starts", phase: "waits for its phase", delay: "waits for its delay", limit: "waits for its limit",
  slot: "waits for a slot", run: "runs", handover: "waits for its hand-over", cancel: "is cancelled", handler: "its error handler runs", retry: "waits for the next attempt",
};

/** Draw `entry` into `place`. Seconds on the scale begin with the entry. */
export function drawChart(place, entry, { now, scale }) {
  const { request } = entry;
  const ends = entry.tasks.map((task) => endOf(task, entry.at, now));
  const first = Math.max(0.001, request?.ended ?? 0, request?.first_message ?? 0, request?.route_ended ?? 0);
  const whole = ends.reduce((longest, end) => Math.max(longest, end), first); // a call takes only so many arguments
  const isRequest = scale === "request" && request?.ended != null;
  const span = (isRequest ? Math.max(0.001, request.ended) * 1.15 : whole) * 1.02;
  const rows = inOrder(entry.tasks);
  if (!place.firstChild) {
    place.append(el("div", { class: "axis", "aria-hidden": "true" }), el("div", { class: "guides", "aria-hidden": "true" }), el("ol", { class: "rows" }));
  }
  const [axis, guides, list] = place.children;
  const lines = ticks(span, place.clientWidth < 520 ? 3 : 7);
  axis.replaceChildren(...lines.map((at) => positioned(el("span", {}, seconds(at)), at, span)));
  guides.replaceChildren(
    ...lines.map((at) => positioned(el("i", { class: "tick" }), at, span)),
    ...[request?.route_ended, request?.ended].filter((at) => at != null && at <= span).map((at) => positioned(el("i", { class: "guide" }), at, span)));
  const items = [
    ...(request ? [{ request }] : []),
    ...rows.slice(0, MOST_ROWS),
    ...(rows.length > MOST_ROWS ? [{ more: rows.length - MOST_ROWS }] : []),
  ];
  reconcile(list, items, {
    key: (item) => (item.task ? `${entry.key}/${item.task.id}` : `${entry.key}/${item.more ? "more" : "request"}`),
    sign: (item) => JSON.stringify([item, span, item.task?.ended === null && now]),
    build: (item) => {
      if (item.request) return requestRow(item.request, span, whole);
      if (item.more) return el("li", { class: "more" }, `and ${item.more} more tasks`);
      return taskRow(item, entry.at, span, now);
    },
  });
  place.dataset.alive = String(entry.tasks.some((task) => task.ended === null));
}

const endOf = (task, at, now) => (task.ended === null ? now : task.scheduled + task.ended) - at;

/** The tasks as a tree: each one below its parent, the older one first. */
function inOrder(tasks) {
  const sorted = [...tasks].sort((a, b) => a.id - b.id);
  const known = new Set(sorted.map((task) => task.id));
  const children = new Map();
  for (const task of sorted) {
    const parent = known.has(task.parent) ? task.parent : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(task);
  }
  const rows = [];
  const left = []; // no recursion: a chain of tasks may be longer than the stack
  const leave = (parent, depth) => {
    for (const task of (children.get(parent) ?? []).reverse()) left.push({ task, depth });
  };
  leave(null, 0);
  while (left.length) {
    const row = left.pop();
    rows.push(row);
    leave(row.task.id, row.depth + 1);
  }
  return rows;
}

/** Moments of the axis: round numbers, at most `most` + 1. */
function ticks(span, most) {
  let step = 10 ** Math.floor(Math.log10(span / most));
  const factor = STEPS.find((each) => span / (step * each) <= most) ?? 10;
  step *= factor;
  const found = [];
  for (let index = 0; index * step <= span * 0.96; index += 1) found.push(index * step);
  return found;
}

function positioned(element, from, span, to = null) {
  element.style.setProperty("left", `${(from / span) * 100}%`);
  if (to !== null) element.style.setProperty("width", `${(Math.max(0, to - from) / span) * 100}%`);
  return element;
}

function bar(kind, from, to, span) {
  if (from > span) return "";
  return positioned(el("i", { class: `bar ${kind}`, title: `${said(kind)}: ${seconds(to - from)}` }), from, span, Math.min(to, span));
}

function requestRow(request, span, whole) {
  const { route_ended: routeEnded, first_message: first, ended } = request;
  const track = el("div", { class: "track", "aria-hidden": "true" });
  const routeEnd = routeEnded ?? ended ?? whole;
  track.append(bar(`route ${request.outcome ?? ""}`, 0, routeEnd, span));
  if (routeEnded != null) track.append(bar("response", routeEnded, ended ?? whole, span));
  if (first != null && first <= span) track.append(positioned(el("i", { class: "first", title: `first message: ${seconds(first)}` }), first, span));
  const outcome = request.outcome ?? "runs";
  return el("li", { class: "request" },
    el("div", { class: "row" },
      el("div", { class: "label" }, el("span", { class: "name" }, "route, then response"),
        el("span", { class: "quiet" }, `route ${outcome}`)),
      track,
      el("div", { class: "figure" }, ended == null ? "" : seconds(ended))));
}

function taskRow({ task, depth }, at, span, now) {
  const offset = task.scheduled - at;
  const end = endOf(task, at, now);
  const kind = task.ended === null ? "alive" : task.status;
  const track = el("div", { class: "track", "aria-hidden": "true" });
  for (const [name, from, to, error] of steps(task, end - offset))
    track.append(bar(`${name} ${error ? "error" : kind}`, offset + from, offset + to, span));
  if (end <= span) track.append(positioned(el("i", { class: `end ${kind}` }, GLYPHS[kind]), end, span));
  const name = task.name ?? task.function;
  const ran = ranFor(task, end - offset);
  const label = el("div", { class: "label" },
    el("span", { class: "name", title: name === task.function ? name : `${name}: ${task.function}` },
      el("b", { class: `mark ${kind}`, "aria-hidden": "true" }, GLYPHS[kind]), task.name ?? short(task.function)),
    el("span", { class: "quiet" }, [task.recovered ? "recovered" : "", task.phase, said(task.status), task.attempt > 1 ? `×${task.attempt}` : ""].filter(Boolean).join(" · ")));
  label.style.setProperty("--depth", Math.min(depth, 6));
  const row = el("summary", { class: "row", "data-focus": "" }, label, track, el("div", { class: "figure" }, ran === null ? "" : seconds(ran)));
  return el("li", {}, el("details", {}, row, facts(task, offset, end)));
}

/** The last two parts of the name of a function. */
const short = (name) => name.replace(/^__main__\./, "").replace(/^.*<locals>\./, "").split(".").slice(-2).join(".");

/** The kind of each step, its beginning, its end, and the exception that ended it. */
const steps = (task, end) => task.segments.map(([kind, from, error], index) => [kind, from, task.segments[index + 1]?.[1] ?? end, error]);

function ranFor(task, end) {
  const first = task.segments.find(([kind]) => kind === "run" || kind === "handover");
  return first ? end - first[1] : null;
}

function facts(task, offset, end) {
  const items = steps(task, end - offset).map(([kind, from, to, error]) =>
    el("li", {}, el("span", { class: "quiet" }, seconds(offset + from)), ` ${WORDS[kind]}, ${seconds(to - from)}`, error ? `, raises ${error}` : ""));
  if (task.ended !== null) items.push(el("li", {}, el("span", { class: "quiet" }, seconds(end)), ` ${said(task.status)}${task.status === "handed_over" ? ` to ${task.queue}` : ""}`));
  return el("div", { class: "facts" },
    el("ol", {}, ...items),
    el("p", {}, el("span", { class: "quiet" }, `task ${task.id}${task.parent === null ? "" : `, scheduled by task ${task.parent}`} `), el("code", {}, task.function)),
    task.message_id ? el("p", { class: "quiet" }, messageOf(task)) : "",
    task.recovered ? el("p", { class: "quiet" }, "recovered from the journal: the task may have run before, in another process") : "",
    task.arguments ? el("p", {}, el("span", { class: "quiet" }, "arguments "), el("code", {}, task.arguments)) : "",
    task.error ? el("p", {}, el("strong", {}, task.error[0]), `: ${task.error[1]} `, el("code", {}, task.error[2])) : "");
}
