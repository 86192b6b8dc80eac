// The table of pools: sorted, filtered, and only the rows in sight are there.
const HEIGHT = 30;
const COLUMNS = [
  ["Tenant or pool", "name", (row) => row.pool, false],
  ["Kind", "phone-no", (row) => row.kind, false],
  ["Server", "phone-no", (row) => row.server, false],
  ["Database", "phone-no", (row) => row.database, false],
  ["Used", "number", (row) => row.used, true],
  ["Limit", "number phone-no", (row) => row.limit, true],
  ["Idle", "number phone-no", (row) => row.idle, true],
  ["Opening", "number phone-no", (row) => row.opening + row.resetting, true],
  ["Waiting", "number", (row) => row.waiting, true],
  ["Oldest wait", "number", (row) => row.oldest, true],
  ["LRU rank", "number phone-no", (row) => row.rank, true],
];
const SHOWN = { 9: (value) => (value ? `${value.toFixed(1)} s` : ""), 10: (value) => (value === Infinity ? "" : String(value)) };

export class PoolTable {
  constructor(root, scroll, open) {
    [this.root, this.scroll, this.open] = [root, scroll, open];
    this.rows = new Map();
    this.list = [];
    this.sort = { column: 8, down: true };
    this.words = "";
    this.busy = false;
    this.lines = new Map();
    this.head();
    const body = root.tBodies[0];
    [this.before, this.after] = [space(), space()];
    body.append(this.before, this.after);
    scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(scroll);
    body.addEventListener("click", (event) => event.target.closest("button")?.dataset.tenant && this.open(event.target.closest("button").dataset.tenant));
    body.addEventListener("keydown", (event) => this.key(event));
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
    const value = COLUMNS[this.sort.column][2];
    const sign = this.sort.down ? -1 : 1;
    this.list = [...this.rows.values()].filter((row) =>
      (!this.busy || row.waiting) && (!this.words || `${row.pool} ${row.server} ${row.database}`.toLowerCase().includes(this.words)));
    this.list.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (a < b ? -sign : a > b ? sign : 0) || (one.pool < other.pool ? -1 : one.pool > other.pool ? 1 : one.id < other.id ? -1 : 1);
    });
    [...this.root.tHead.rows[0].cells].forEach((cell, number) => {
      if (number === this.sort.column) cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    this.root.setAttribute("aria-rowcount", String(this.list.length + 1));
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / HEIGHT) - 10);
    const count = Math.ceil(this.scroll.clientHeight / HEIGHT) + 20;
    const seen = this.list.slice(first, first + count);
    const lines = new Map();
    let place = this.before;
    seen.forEach((row, number) => {
      const line = this.lines.get(row.id) ?? this.line();
      this.fill(line, row, first + number + 2);
      lines.set(row.id, line);
      if (place.nextSibling !== line) place.after(line);
      place = line;
    });
    for (const [id, line] of this.lines) if (lines.get(id) !== line) line.remove();
    this.lines = lines;
    this.before.firstChild.style.height = `${first * HEIGHT}px`;
    this.after.firstChild.style.height = `${Math.max(0, this.list.length - first - seen.length) * HEIGHT}px`;
    const buttons = [...this.root.tBodies[0].querySelectorAll("button")];
    if (!buttons.some((button) => button.tabIndex === 0) && buttons.length) buttons[0].tabIndex = 0;
  }

  line() {
    const line = document.createElement("tr");
    COLUMNS.forEach(([, kind]) => { line.insertCell().className = kind; });
    return line;
  }

  fill(line, row, index) {
    line.setAttribute("aria-rowindex", String(index));
    line.className = row.waiting ? "starving" : "";
    COLUMNS.forEach(([, , value], number) => {
      const cell = line.cells[number];
      const text = (SHOWN[number] ?? String)(value(row));
      if (number) { if (cell.textContent !== text) cell.textContent = text; return; }
      if (cell.textContent === text && cell.dataset.kind === row.kind) return;
      cell.dataset.kind = row.kind;
      if (row.kind !== "tenant" && row.kind !== "part") { cell.textContent = text; return; }
      const button = document.createElement("button");
      button.type = "button";
      button.className = "link";
      button.tabIndex = -1;
      button.dataset.tenant = row.pool;
      button.textContent = text;
      cell.replaceChildren(button);
    });
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const line = event.target.closest("tr");
    if (!step || !line) return;
    event.preventDefault();
    let at = Number(line.getAttribute("aria-rowindex")) - 2 + step;
    while (this.list[at] && this.list[at].kind !== "tenant" && this.list[at].kind !== "part") at += step;
    if (!this.list[at]) return;
    const [top, room] = [at * HEIGHT, this.scroll.clientHeight - 2 * HEIGHT];
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top > this.scroll.scrollTop + room) this.scroll.scrollTop = top - room;
    this.draw();
    const next = this.lines.get(this.list[at].id)?.querySelector("button");
    event.target.tabIndex = -1;
    if (next) { next.tabIndex = 0; next.focus({ preventScroll: true }); }
  }
}

function space() {
  const line = document.createElement("tr");
  line.className = "space";
  line.setAttribute("aria-hidden", "true");
  line.insertCell().colSpan = COLUMNS.length;
  return line;
}
