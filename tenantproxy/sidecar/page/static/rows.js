// Long tables: only the rows in sight are there, and their lines are used again for others.
const HEIGHT = 30;
const SPARE = 8;  // rows above and below those in sight

export class RowsInSight {
  // Each of `columns` is [title, class, text of a row, ...]. `rich(cell, row, text, number)` is true where it has filled the
  // cell itself; it always is or never is for a column. `mark(row)` is the class of its line.
  constructor(body, scroll, columns, { rich = () => false, mark = () => "" } = {}) {
    [this.body, this.scroll, this.columns, this.rich, this.mark] = [body, scroll, columns, rich, mark];
    this.list = [];
    this.lines = new Map();
    this.free = [];
    this.height = 0;
    [this.before, this.after] = [space(), space()];
    body.append(this.before, this.after);
    scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    this.observer = new ResizeObserver(() => { this.height = scroll.clientHeight; this.draw(); });
    this.observer.observe(scroll);
  }

  // All rows, in their order; each has an `id`.
  show(list) {
    this.list = list;
    this.height = this.scroll.clientHeight;
    this.draw();
  }

  close() { this.observer.disconnect(); }

  draw() {
    const first = Math.max(0, Math.min(Math.floor(this.scroll.scrollTop / HEIGHT), this.list.length - 1) - SPARE);
    const seen = this.list.slice(first, first + Math.ceil(this.height / HEIGHT) + 2 * SPARE);
    const ids = new Set(seen.map((row) => row.id));
    for (const [id, line] of this.lines) {
      if (ids.has(id)) continue;
      line.remove();
      this.lines.delete(id);
      this.free.push(line);
    }
    let place = this.before;
    seen.forEach((row, number) => {
      let line = this.lines.get(row.id);
      if (!line) this.lines.set(row.id, line = this.free.pop() ?? this.line());
      this.fill(line, row, first + number + 2);
      if (place.nextSibling !== line) place.after(line);
      place = line;
    });
    tall(this.before, first);
    tall(this.after, Math.max(0, this.list.length - first - seen.length));
  }

  line() {
    const line = document.createElement("tr");
    line.shown = this.columns.map(([, kind]) => { line.insertCell().className = kind; return null; });
    return line;
  }

  // What a line shows is remembered with it: to ask its cells costs more than to write them.
  fill(line, row, index) {
    if (line.index !== index) line.setAttribute("aria-rowindex", String(line.index = index));
    const mark = this.mark(row);
    if (line.mark !== mark) line.className = line.mark = mark;
    this.columns.forEach(([, , text], number) => {
      const said = text(row);
      const same = line.shown[number] === said;
      if (same && line.owner === row.id) return;
      line.shown[number] = said;
      if (!this.rich(line.cells[number], row, said, number) && !same) line.cells[number].textContent = said;
    });
    line.owner = row.id;
  }

  // Scrolls so that row `at` is in sight; its line.
  reach(at) {
    const [top, room] = [at * HEIGHT, this.scroll.clientHeight - 2 * HEIGHT];
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top > this.scroll.scrollTop + room) this.scroll.scrollTop = top - room;
    this.draw();
    return this.lines.get(this.list[at].id);
  }
}

function tall(line, rows) {
  if (line.rows === rows) return;
  line.rows = rows;
  line.firstChild.style.height = `${rows * HEIGHT}px`;
}

function space() {
  const line = document.createElement("tr");
  line.className = "space";
  line.setAttribute("aria-hidden", "true");
  line.insertCell();  // one cell: more would be columns also where a narrow screen shows fewer
  return line;
}
