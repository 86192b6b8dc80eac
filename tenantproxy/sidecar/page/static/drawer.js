// One tenant: who holds what since when, its sessions, and what may be done. Each action is asked for again first.
import { element, grid } from "./dom.js";
import { shown } from "./lines.js";
import { RowsInSight } from "./rows.js";

const $ = (id) => document.getElementById(id);
const RANKS = { read: 0, operate: 1, admin: 2 };
// What may be done to a tenant: to its connections and its status, and to its clients of the PostgreSQL port.
const ACTIONS = [
  ["Tenant", "", "tenants", ["evict", "suspend", "resume"]],
  ["PostgreSQL port", " at the PostgreSQL port", "pools", ["pause", "resume", "drain", "kill"]],
];
const OF_PROCESS = { reload: "Reload the configuration?", restart: "Restart the workers?", upgrade: "Upgrade to a new process?", drain: "Drain and end this process?" };

export class Drawer {
  constructor(call, role) {
    [this.call, this.role] = [call, role];
    this.tenant = "";
    this.timer = 0;
    this.paths = {};
    this.told = none();
    this.parts = null;  // of what is shown: two tables that are made again, and the clients
    $("drawer-close").addEventListener("click", () => $("drawer").close());
    $("drawer").addEventListener("close", () => { clearTimeout(this.timer); this.tenant = ""; this.clear(); });
    $("sessions-form").addEventListener("submit", (event) => { event.preventDefault(); this.sessions(); });
  }

  // What this listener can do, and who may: its own description says so.
  async describe() {
    this.paths = (await this.call("GET", "v1/openapi.json")).paths;
    const buttons = Object.entries(OF_PROCESS).flatMap(([verb, title]) => {
      const found = this.may(`/v1/${verb}`, "post");
      return found ? [this.button(verb, title, found.summary, "POST", `v1/${verb}`, () => {}, $("process-state"))] : [];
    });
    $("process-actions").replaceChildren(...buttons);
    $("process").hidden = !buttons.length && !$("workers").children.length;
  }

  ofWorker(number) {
    const found = this.may("/v1/workers/{worker}/restart", "post");
    return found && this.button("restart", `Restart worker ${number}?`, found.summary, "POST", `v1/workers/${number}/restart`, () => {}, $("process-state"));
  }

  may(path, method) {
    const found = this.paths[path]?.[method];
    return found && RANKS[this.role()] >= RANKS[found["x-role"]] ? found : null;
  }

  open(tenant) {
    this.tenant = tenant;
    this.told = none();
    $("drawer-title").textContent = tenant;
    $("drawer-state").textContent = "";
    this.clear();
    $("sessions").replaceChildren();
    $("sessions-form").hidden = !this.paths["/v1/tenants/{tenant}/users/{user}/sessions"];
    $("drawer-actions").replaceChildren(...ACTIONS.flatMap(([name, where, path, verbs]) => {
      const buttons = verbs.flatMap((verb) => {
        const found = this.may(`/v1/${path}/{tenant}/${verb}`, "post");
        return found ? [this.button(verb, `${verb} ${tenant}${where}?`, found.summary, "POST", `v1/${path}/${encodeURIComponent(tenant)}/${verb}`)] : [];
      });
      if (!buttons.length) return [];
      const group = element("div", null, "tools");
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", name);
      group.append(element("span", name), ...buttons);
      return [group];
    }));
    if (!$("drawer").open) $("drawer").showModal();
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    const { tenant } = this;
    if (!tenant) return;
    try {
      const path = `v1/pools/${encodeURIComponent(tenant)}`;
      const found = await this.call("GET", path);
      if (tenant !== this.tenant) return;
      this.show(found);
      // Their servers are asked for it, so only where something is held.
      if (!this.may("/v1/pools/{tenant}/statements", "get") || !found.pools.some((pool) => pool.held.length)) this.told = none();
      else {
        this.told = await this.call("GET", `${path}/statements`);
        if (tenant !== this.tenant) return;
        this.show(found);
      }
    } catch (error) {
      if (tenant === this.tenant) $("drawer-state").textContent = error.message;
    }
    this.timer = setTimeout(() => this.refresh(), 2000);
  }

  clear() {
    this.parts?.sight.close();
    this.parts = null;
    $("drawer-body").replaceChildren();
  }

  show({ pools, clients, paused }) {
    const now = this.told.held ?? pools.flatMap((pool) => pool.held.map(({ backend, seconds }) => ({ backend, held: seconds, state: null })));
    const held = now.map((each) => [each.backend, shown(each.held), each.client ? `client ${each.client}, ${each.user}` : each.state === null ? "" : "this process",
      each.application_name ?? "", each.state === null ? "" : `${each.state}, ${shown(each.seconds)}`,
      element("code", each.state === null ? "" : each.statement ?? "not to be seen by our user")]);
    const parts = this.parts ??= this.made();
    parts.paused.textContent = paused ? "Paused at the PostgreSQL port: its clients wait, and new ones are refused." : "";
    parts.places.replaceChildren(listed(["pool", "server", "database", "used", "limit", "waiting", "oldest wait"], pools.map((pool) =>
      [pool.pool, pool.server, pool.database, pool.used, pool.limit, pool.waiting, pool.waiting ? shown(pool.oldest) : ""])));
    parts.leases.replaceChildren(
      listed(["backend", "for", "held by", "application", "state", "statement"], held),
      ...this.told.unseen.map(({ server, why }) => element("p", `What runs on ${server} is not known: ${why}`, "hint")),
    );
    [parts.empty.hidden, parts.box.hidden] = [clients.length > 0, clients.length === 0];
    parts.sight.show(clients);
  }

  // There may be hundreds of clients: those in sight alone are in the page.
  made() {
    const columns = [
      ["state", "", (client) => (client.pinned ? `${client.state}, pinned` : client.state)],
      ["for", "", (client) => shown(client.seconds)],
      ["user", "", (client) => client.user],
      ["application", "", (client) => client.application_name],
      ["address", "", (client) => `${client.address}:${client.port}`],
      ...(this.may("/v1/clients/{client}", "delete") ? [["action", "", (client) => String(client.id)]] : []),
    ];
    const rich = (cell, client, text, number) => {
      if (number < 5) { cell.title = text; return false; }
      cell.replaceChildren(this.button("end", `End client ${client.id}?`, `${client.user}, ${client.application_name || "no application name"}, ${client.address}`, "DELETE", `v1/clients/${client.id}`));
      return true;
    };
    const box = grid(columns.map(([title]) => title), []);
    box.classList.add("clients");
    const paused = element("p", null, "down");
    const parts = { paused, places: element("div"), leases: element("div"), empty: element("p", "none"), box };
    $("drawer-body").replaceChildren(
      paused, element("h3", "In its pools"), parts.places, element("h3", "Connections that it holds"), parts.leases,
      element("h3", "Clients of the PostgreSQL port"), parts.empty, box,
    );
    return { ...parts, sight: new RowsInSight(box.querySelector("tbody"), box, columns, { rich }) };
  }

  async sessions() {
    const base = `v1/tenants/${encodeURIComponent(this.tenant)}/users/${encodeURIComponent($("sessions-user").value)}/sessions`;
    const ends = this.may("/v1/tenants/{tenant}/users/{user}/sessions", "delete");
    try {
      const { sessions } = await this.call("GET", base);
      const again = () => this.sessions();
      const rows = sessions.map((each) => [each.id, when(each.last_used), when(each.expires_at),
        ...(ends ? [this.button("end", "End this session?", each.id, "DELETE", `${base}/${encodeURIComponent(each.id)}`, again)] : [])]);
      const all = ends && rows.length ? [this.button("end all", `End all sessions of ${$("sessions-user").value}?`, `${rows.length} sessions`, "DELETE", base, again)] : [];
      $("sessions").replaceChildren(listed(["session", "last used", "ends", ...(ends ? ["action"] : [])], rows), ...all);
    } catch (error) { $("sessions").replaceChildren(element("p", error.message)); }
  }

  button(text, title, says, method, path, after = () => this.refresh(), told = $("drawer-state")) {
    const made = element("button", text);
    made.type = "button";
    made.dataset.path = `${method} ${path}`;
    made.setAttribute("aria-label", title.replace(/\?$/, ""));
    made.addEventListener("click", async () => {
      if (!await confirmed(title, says, text)) return;
      told.textContent = `${text} ...`;
      try {
        const { idle, paused } = await this.call(method, path, {});
        told.textContent = paused && !idle ? `${text}: done, what runs is not over yet` : `${text}: done`;
      } catch (error) { told.textContent = `${text}: ${error.message}`; }
      after();
    });
    return made;
  }
}

// `held` null: it is not known yet what runs.
function none() { return { held: null, unseen: [] }; }

let settle = null;

// Not by the event `close`, which comes late: it would answer the next question.
function confirmed(title, says, verb) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = says;
  $("confirm-yes").textContent = verb;
  $("confirm").showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => { settle = resolve; });
}

function answered(answer) {
  const told = settle;
  settle = null;
  if ($("confirm").open) $("confirm").close();
  told?.(answer);
}
$("confirm-yes").addEventListener("click", () => answered(true));
$("confirm-no").addEventListener("click", () => answered(false));
$("confirm").addEventListener("cancel", () => answered(false));

function listed(heads, rows) { return rows.length ? grid(heads, rows) : element("p", "none"); }

function when(text) { return new Date(text).toLocaleString(); }
