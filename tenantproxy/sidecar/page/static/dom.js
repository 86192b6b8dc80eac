// Elements are made with their text: nothing that comes from the service is ever parsed as markup.
export function element(name, text, kind = "") {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// A table that is scrolled by itself where it is wide; `label`: what a screen reader says of it.
export function grid(heads, rows, label = `Table of ${heads[0]}`) {
  const box = element("div", null, "wide");
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const text of heads) { const cell = element("th", text); cell.scope = "col"; head.append(cell); }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of row) line.insertCell().append(value instanceof Node ? value : String(value));
  }
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  box.append(table);
  return box;
}
