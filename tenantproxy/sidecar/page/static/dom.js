// Elements are made with their text: nothing that comes from the service is ever parsed as markup.
export function element(name, text, kind = "") {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
