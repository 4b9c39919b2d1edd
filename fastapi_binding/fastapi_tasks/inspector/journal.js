// The tasks of a journal, of all processes that share its file: those that are due, and those that have failed for good.

import { el, reconcile } from "./page-parts.js";

const $ = (id) => document.getElementById(id);

/** What a due task waits for, by the life of its host. */
const HOSTS = {
  alive: "a living process has it",
  dead: "its process has died: another one takes over",
  null: "waits for a process",
};

/** Draw what the journal had at the last look; nothing without a journal. */
export function drawJournal(journal, matches) {
  $("journal").hidden = $("journal-key").hidden = !journal;
  if (!journal) return;
  const { error, due = [], failed = [], due_count: dues = 0, failed_count: failures = 0 } = journal;
  $("journal-facts").textContent = error
    ? `The journal cannot be read: ${error}`
    : `${dues} due, ${failures} failed for good, in all processes with this file`;
  const isDue = (row) => matches([{ ...row, status: "due", ended: null }], [HOSTS[row.owner]]);
  const isFailed = (row) => matches([{ ...row, status: "failed", ended: 0, error: [row.error] }], []);
  drawTable("due", due, isDue, dues, (row) => el("tr", { role: "row" },
    taskCell(row),
    cell("Age", el("time", { class: "age", "data-at": row.written })),
    recoveriesCell(row),
    cell("Process", el("span", { class: `owner ${row.owner}` }, HOSTS[row.owner]))));
  drawTable("kept", failed, isFailed, failures, (row) => el("tr", { role: "row" },
    taskCell(row),
    cell("Failed", el("time", { class: "ago", "data-at": row.failed })),
    recoveriesCell(row),
    cell("Error", el("span", { class: "message" }, row.error))));
}

function drawTable(name, rows, matches, total, build) {
  const found = rows.filter(matches);
  reconcile($(`${name}-rows`), found, { key: (row) => row.id, sign: JSON.stringify, build });
  $(`${name}-table`).hidden = !found.length;
  const none = $(`no-${name}`);
  const more = total - rows.length;
  none.textContent = found.length ? `And ${more} more.` : rows.length ? "No task matches the filter." : "None.";
  none.hidden = found.length > 0 && !more;
}

const cell = (label, ...content) => el("td", { role: "cell", "data-label": label }, ...content);

function taskCell(row) {
  return cell("Task", el("strong", {}, row.name ?? row.function),
    row.name ? el("span", { class: "quiet" }, row.function) : "",
    el("span", { class: "quiet" }, `${row.phase}, message ${row.id}`),
    row.arguments ? el("code", {}, row.arguments) : "");
}

const recoveriesCell = (row) => cell("Recoveries", row.recoveries ? String(row.recoveries) : "–");
