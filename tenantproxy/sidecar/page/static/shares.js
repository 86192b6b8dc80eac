// Who has how much of a server's budget, of all processes of the fleet; those of this service marked. And its workers.
import { grid } from "./dom.js";
import { shown } from "./lines.js";

const HEADS = ["process", "state", "granted", "used", "wanted"];

// `box`: details with a summary and a place for the table. `rows`: as the stream has them.
export function byProcess(box, server, rows) {
  const text = JSON.stringify(rows);
  if (box.dataset.shown === text) return;
  box.dataset.shown = text;
  box.hidden = !rows.length;
  box.children[0].textContent = `By process (${rows.length})`;
  box.children[1].replaceChildren(grid(HEADS, rows.map(([, process, isOwn, state, granted, used, wanted, silent]) => [
    `${process.slice(0, 8)}${isOwn ? ", this service" : ""}`, silent === null ? state : `${state} for ${shown(silent)}`, granted, used, wanted,
  ]), `Budget of ${server} by process`));
}

// `rows`: as the stream has them. `button`: gives one that starts this worker again; null: its token may not.
export function byWorker(box, rows, button) {
  const may = Boolean(rows.length && button(rows[0][0]));
  const text = JSON.stringify([rows, may]);
  if (box.dataset.shown === text) return;
  box.dataset.shown = text;
  const lines = rows.map(([number, pid, state, since, restarts, version]) => [
    number, pid, state, new Date(since * 1000).toLocaleString(), restarts, version, ...(may ? [state === "ready" ? button(number) : ""] : []),
  ]);
  box.replaceChildren(...(rows.length ? [grid(["worker", "process", "state", "since", "crashes", "version", ...(may ? ["action"] : [])], lines, "Workers")] : []));
}
