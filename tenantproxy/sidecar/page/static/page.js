// The operator page: a stream of what changes, a drawer for one tenant, and actions that are asked for twice.
// Whatever comes from the service is set as text, never as markup. The token is in this module's memory alone.
import { element } from "./dom.js";
import { PoolTable } from "./table.js";
import { Lines, shown } from "./lines.js";
import { Drawer } from "./drawer.js";
import { byProcess, byWorker } from "./shares.js";

const $ = (id) => document.getElementById(id);
const MOST_EVENTS = 200;
let token = "";
let columns = [];
let processes = [];
let stream = null;
let wait = 1000;
let role = "read";

async function call(method, path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error([said.title ?? `HTTP ${answer.status}`, said.detail].filter(Boolean).join(": ")), { status: answer.status });
  return said;
}

const drawer = new Drawer(call, () => role);
const table = new PoolTable($("table"), $("scroll"), (tenant) => drawer.open(tenant));
const lines = { wait: new Lines($("wait-line"), $("wait-text")), hold: new Lines($("hold-line"), $("hold-text")) };

function state(text, isBad = false) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = isBad ? "down" : text === "live" ? "live" : "";
}

// --- who looks -------------------------------------------------------------------------------------------------------
async function begin() {
  try {
    const me = await call("GET", "v1/me");
    role = me.role;
    $("who").textContent = me.name ? `${me.name}, role ${role}` : `no token, role ${role}`;
    $("leave").hidden = !token;
    if ($("login").open) $("login").close();
    drawer.describe().catch(() => {});
    look();
  } catch (error) {
    if (error.status !== 401) { state(error.message, true); setTimeout(begin, 3000); return; }
    $("login-text").textContent = token ? "This token is not one of the admin listener's." : $("login-text").textContent;
    token = "";
    state("a token is needed", true);
    if (!$("login").open) $("login").showModal();
    $("token").focus();
  }
}

$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  begin();
});
$("login").addEventListener("cancel", (event) => event.preventDefault());
$("leave").addEventListener("click", () => { token = ""; stream?.abort(); location.reload(); });

// --- the stream ------------------------------------------------------------------------------------------------------
async function look() {
  stream?.abort();
  const own = stream = new AbortController();
  try {
    const answer = await fetch("v1/events", { headers: token ? { Authorization: `Bearer ${token}` } : {}, signal: own.signal, credentials: "same-origin" });
    if (answer.status === 401) { begin(); return; }
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const [, kind, data] = /^event: (\w+)\ndata: (.*)$/s.exec(text.slice(0, end)) ?? [];
        text = text.slice(end + 2);
        wait = 1000;
        if (kind) await take(kind, JSON.parse(data));
      }
    }
    if (own === stream) look();  // it ends from time to time, so that the token is looked at again
  } catch {
    if (own !== stream || document.hidden) return;
    state("not connected: trying again", true);
    setTimeout(() => own === stream && look(), wait);
    wait = Math.min(wait * 2, 15000);
  }
}

// A page that is not seen costs nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.abort(); stream = null; state("paused while it is not seen"); } else if (stream === null && !$("login").open) begin();
});

// A part in each frame: all of it at once would be felt by who scrolls.
const frame = () => new Promise((done) => { requestAnimationFrame(done); setTimeout(done, 100); });

async function take(kind, look) {
  if (kind === "trouble") { state(look.message, true); return; }
  if (kind === "all") columns = look.columns;
  table.take(columns, look.pools, look.gone ?? [], kind === "all");
  count();
  processes = look.processes ?? processes;
  await frame();
  servers(look.servers, look.fleet);
  counts(look.counts, look.starved, look.paused);
  byWorker($("workers"), look.workers, (number) => drawer.ofWorker(number));
  $("process").hidden = !look.workers.length && !$("process-actions").children.length;
  events(look.events, kind === "all");
  for (const name of ["wait", "hold"]) {
    await frame();
    lines[name].take(look.at, look.waits[name]);
  }
  state("live");
  document.documentElement.dataset.frames = String(Number(document.documentElement.dataset.frames ?? 0) + 1);
}

// --- what is shown ---------------------------------------------------------------------------------------------------
function servers(list, fleet) {
  const box = $("servers");
  list.forEach((server, number) => {
    const part = fleet?.servers.find((each) => each.server === server.name);
    const whole = Math.max(server.configured, server.limit, part?.cap ?? 0, 1);
    const line = box.children[number] ?? box.appendChild(bar());
    const [name, meter, said, shares] = line.children;
    const granted = part?.granted ?? server.limit;
    name.textContent = server.name;
    name.className = server.up ? "" : "down";
    meter.children[0].style.width = `${(100 * granted) / whole}%`;
    meter.children[1].style.width = `${(100 * server.used) / whole}%`;
    meter.children[2].style.left = `${Math.min(99, (100 * (part?.wanted ?? server.used)) / whole)}%`;
    meter.setAttribute("aria-valuenow", String(server.used));
    meter.setAttribute("aria-valuemax", String(whole));
    meter.setAttribute("aria-label", `Connections of ${server.name}`);
    const of = part ? `, wanted ${part.wanted}, of ${part.cap} that ${part.processes} processes share${part.ghosts ? `, ${part.ghosts} of silent ones` : ""}` : "";
    const text = `${server.up ? "up" : "DOWN"}: used ${server.used}, granted ${granted}${of}`
      + `${server.waiting ? `, ${server.waiting} pools wait` : ""}${server.lingering ? `, ${server.lingering} linger` : ""}`
      + `${server.host ? `, at ${server.host}` : ""}${server.lag === null ? "" : `, ${shown(server.lag)} behind`}`;
    if (said.textContent !== text) said.textContent = text;
    byProcess(shares, server.name, fleet ? processes.filter((each) => each[0] === server.name) : []);
  });
  while (box.children.length > list.length) box.lastChild.remove();
}

function bar() {
  const line = element("div", null, "server");
  const meter = element("div", null, "bar");
  meter.setAttribute("role", "meter");
  meter.setAttribute("aria-valuemin", "0");
  meter.append(element("i", null, "granted"), element("i"), element("b"));
  const shares = element("details");
  shares.append(element("summary"), element("div"));
  shares.hidden = true;
  line.append(element("strong"), meter, element("p"), shares);
  return line;
}

function counts(found, starved, paused) {
  const cards = [
    ["Exhaustions by cause", Object.entries(found.exhaustions)],
    ["Exhaustions by tenant", starved.map(([tenant, cause, count]) => [`${tenant} (${cause})`, count])],
    ["Pools", [["open", `${found.pools[0]} of ${found.pools[1]} that may stay unused`], ...Object.entries(found.evicted).map(([reason, count]) => [`evicted: ${reason}`, count])]],
    ["Connections closed", Object.entries(found.closed)],
    ["Logins", Object.entries(found.logins)],
    ["Clients", Object.entries(found.clients).map(([name, [now, most]]) => [name, `${now} of ${most}`])],
    ["Isolation", [["violations", found.violations], ...Object.entries(found.resets).map(([result, count]) => [`resets ${result}`, count])]],
    ["Paused at the port", paused.map((tenant) => [tenant, ""])],
  ];
  const box = $("counts");
  cards.forEach(([title, rows], number) => {
    const card = box.children[number] ?? box.appendChild(element("div"));
    const text = JSON.stringify([title, rows]);
    if (card.dataset.shown === text) return;
    card.dataset.shown = text;
    const list = element("table");
    const body = list.createTBody();
    for (const [name, value] of rows) {
      const line = body.insertRow();
      const head = element("th", name);
      head.scope = "row";
      line.append(head, element("td", String(value), value === 0 ? "number none" : "number"));
    }
    card.replaceChildren(element("h3", title), rows.length ? list : element("p", "none", "none"));
  });
}

function events(list, isAll) {
  const box = $("events");
  if (isAll) box.replaceChildren();
  for (const each of list) {
    const line = element("li");
    const when = element("time", new Date(each.at * 1000).toLocaleTimeString());
    when.dateTime = new Date(each.at * 1000).toISOString();
    const told = Object.entries(each.fields).filter(([name, value]) => value !== "" && value !== null && name !== "request_id").map(([name, value]) => `${name}=${value}`);
    line.append(when, element("strong", each.kind.replaceAll("_", " ")), ` ${told.join(" ")}`);
    box.prepend(line);
  }
  while (box.children.length > MOST_EVENTS) box.lastChild.remove();
}

function count() { $("shown").textContent = `${table.list.length} of ${table.rows.size}`; }

$("filter").addEventListener("input", () => { table.words = $("filter").value.trim().toLowerCase(); table.arrange(); count(); });
$("busy").addEventListener("change", () => { table.busy = $("busy").checked; table.arrange(); count(); });
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, dialog");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); $("filter").focus(); }
});

begin();
