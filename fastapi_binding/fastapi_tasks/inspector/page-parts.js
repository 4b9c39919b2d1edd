// Small parts that both scripts of the page use.

/** A sign for each end, so that no end is told by its colour alone. */
export const GLYPHS = { alive: "▸", failed: "✕", cancelled: "⊘", dropped: "∅", handed_over: "↗", succeeded: "✓" };

/** Write a status or an end: "handed_over" as two words. */
export const said = (status) => status.replaceAll("_", " ");

/** Make an element. Children that are strings become text nodes. An attribute that is null or false is left out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children);
  return element;
}

/** Have `parent` show `rows`, in their order. Elements whose row has not changed stay, with focus and state. */
export function reconcile(parent, rows, { key, sign, build }) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = rows.map((row) => {
    const [name, signature] = [key(row), sign(row)];
    const before = old.get(name);
    if (before?.dataset.sign === signature) return before;
    const element = build(row);
    element.dataset.key = name;
    element.dataset.sign = signature;
    if (before) replaceChild(before, element);
    return element;
  });
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  wanted.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
}

function replaceChild(before, after) {
  const details = before.querySelector("details");
  if (details?.open) after.querySelector("details").open = true;
  const isFocused = before.contains(document.activeElement);
  before.replaceWith(after);
  if (isFocused) after.querySelector("[data-focus]")?.focus({ preventScroll: true });
}

/** Write the queue and the message of a task; "" for a task that no queue takes. */
export const messageOf = ({ queue, message_id: message }) =>
  message ? `${queue ? `queue ${queue}, ` : ""}message ${message}` : "";

/** Write a duration: "0.31 ms", "12 ms", "1.24 s", "3 min". Less than a microsecond is the rounding of a difference. */
export function seconds(value, isCoarse = false) {
  if (value < 0.9995 && !isCoarse) {
    const milliseconds = Math.max(0, Math.round(value * 1e6)) / 1000;
    return `${milliseconds < 10 ? Number(milliseconds.toPrecision(2)) : Math.round(milliseconds)} ms`;
  }
  if (value < 60) return isCoarse ? `${Math.floor(value)} s` : `${Number(value.toPrecision(3))} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  return value < 172800 ? `${Math.floor(value / 3600)} h` : `${Math.floor(value / 86400)} days`;
}

/** Write the time of the day of a moment. */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

/** Return a function that tells if some of `tasks` fit the filter; `texts` may have the searched words instead. */
export function matcher({ q, status }) {
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (task) => !status || (status === "alive" ? task.ended === null : task.ended !== null && task.status === status);
  const textOf = (task) =>
    [task.name, task.function, task.phase, said(task.status), task.arguments, task.queue, task.message_id, task.recovered ? "recovered" : "", ...(task.error ?? [])].join(" ");
  return (tasks, texts) =>
    tasks.some((task) => {
      if (!fits(task)) return false;
      const text = `${texts.join(" ")} ${textOf(task)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
}
