// The table of pools: sorted and filtered.
import { RowsInSight } from "./rows.js";

const rank = (row) => (row.rank === Infinity ? "" : String(row.rank));
const oldest = (row) => (row.oldest ? `${row.oldest.toFixed(1)} s` : "");
// Title, class, text, is it a number, and by what it is sorted where that is not the text.
const COLUMNS = [
  ["Tenant or pool", "name", (row) => row.pool, false],
  ["Kind", "kind phone-no", (row) => row.kind, false],
  ["Server", "place phone-no", (row) => row.server, false],
  ["Database", "place phone-no", (row) => row.database, false],
  ["Used", "number", (row) => String(row.used), true, (row) => row.used],
  ["Limit", "number phone-no", (row) => String(row.limit), true, (row) => row.limit],
  ["Idle", "number phone-no", (row) => String(row.idle), true, (row) => row.idle],
  ["Opening", "number phone-no", (row) => String(row.opening + row.resetting), true, (row) => row.opening + row.resetting],
  ["Waiting", "number", (row) => String(row.waiting), true, (row) => row.waiting],
  ["Oldest", "number", oldest, true, (row) => row.oldest],
  ["LRU rank", "number phone-no", rank, true, (row) => row.rank],
];
const hasTenant = (row) => row.kind === "tenant" || row.kind === "part";

export class PoolTable {
  constructor(root, scroll, open) {
    [this.root, this.scroll, this.open] = [root, scroll, open];
    this.rows = new Map();
    this.list = [];
    this.sort = { column: 8, down: true };
    this.words = "";
    this.busy = false;
    this.head();
    const body = root.tBodies[0];
    this.sight = new RowsInSight(body, scroll, COLUMNS, { rich, mark: (row) => (row.waiting ? "starving" : "") });
    body.addEventListener("click", (event) => event.target.closest("button")?.dataset.tenant && this.open(event.target.closest("button").dataset.tenant));
    body.addEventListener("keydown", (event) => this.key(event));
    scroll.addEventListener("scroll", () => this.reachable(), { passive: true });
  }

  head() {
    const line = document.createElement("tr");
    COLUMNS.forEach(([title, kind, , isNumber], number) => {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      cell.scope = "col";
      cell.className = kind;
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        this.sort = { column: number, down: this.sort.column === number ? !this.sort.down : isNumber };
        this.arrange();
      });
      cell.append(button);
      line.append(cell);
    });
    this.root.tHead.append(line);
  }

  // `changed`: rows by id, `gone`: ids; `all`: these are all there are.
  take(columns, changed, gone, all) {
    if (all) this.rows.clear();
    for (const id of gone) this.rows.delete(id);
    for (const [id, values] of Object.entries(changed)) {
      const row = { id, rank: Infinity };
      columns.forEach((name, number) => { row[name] = values[number]; });
      this.rows.set(id, row);
    }
    const aged = [...this.rows.values()].filter((row) => row.kind === "tenant" || row.kind === "shared");
    aged.sort((one, other) => one.used_at - other.used_at).forEach((row, number) => { row.rank = number + 1; });
    this.arrange();
  }

  arrange() {
    const [, , text, , value = text] = COLUMNS[this.sort.column];
    const sign = this.sort.down ? -1 : 1;
    this.list = [...this.rows.values()].filter((row) =>
      (!this.busy || row.waiting) && (!this.words || `${row.pool} ${row.server} ${row.database}`.toLowerCase().includes(this.words)));
    this.list.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (a < b ? -sign : a > b ? sign : 0) || (one.pool < other.pool ? -1 : one.pool > other.pool ? 1 : one.id < other.id ? -1 : 1);
    });
    [...this.root.tHead.rows[0].cells].forEach((cell, number) => {
      if (number !== this.sort.column) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
    });
    this.root.setAttribute("aria-rowcount", String(this.list.length + 1));
    this.sight.show(this.list);
    this.reachable();
  }

  draw() { this.sight.draw(); }

  // One of the names can be reached by Tab; the arrows go on from there.
  reachable() {
    const body = this.root.tBodies[0];
    if (body.querySelector('button[tabindex="0"]')) return;
    const first = body.querySelector("button");
    if (first) first.tabIndex = 0;
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const line = event.target.closest("tr");
    if (!step || !line) return;
    event.preventDefault();
    let at = Number(line.getAttribute("aria-rowindex")) - 2 + step;
    while (this.list[at] && !hasTenant(this.list[at])) at += step;
    if (!this.list[at]) return;
    const next = this.sight.reach(at)?.querySelector("button");
    event.target.tabIndex = -1;
    if (next) { next.tabIndex = 0; next.focus({ preventScroll: true }); }
  }
}

function rich(cell, row, text, number) {
  if (number > 3) return false;
  cell.title = text;  // where the column is too narrow for it
  if (number) return false;
  if (!hasTenant(row)) { cell.textContent = text; return true; }
  let button = cell.querySelector("button");
  if (!button) cell.replaceChildren(button = made());
  button.dataset.tenant = button.textContent = text;
  button.tabIndex = button === document.activeElement ? 0 : -1;
  return true;
}

function made() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  return button;
}
