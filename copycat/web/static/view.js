// Asks the node every two seconds, and shows what it says. What comes from other nodes is text, and only ever set as text.

import { draw } from "/plots.js";

const EVERY_MS = 2000;
const ROWS = 50;
const SPAN_S = 600;
const EVENTS_SHOWN = 50;
const EVENTS_KEPT = 1000;

const byId = (id) => document.getElementById(id);
const now = () => performance.now() / 1000;
let points = [], events = [], addresses = new Map(), states = new Map(), lastAnswer = null, timer = null, paused = false, asking = false;

// --- making elements ---

function make(name, className, ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside.filter((one) => one !== null && one !== undefined));
  return made;
}

function cell(label, className, ...inside) {
  const made = make("td", className, make("div", "", ...inside));
  made.dataset.label = label;
  return made;
}

function heading(label, ...inside) {
  const made = make("th", "", make("div", "", ...inside));
  made.scope = "row";
  made.dataset.label = label;
  return made;
}

function nothing(columns, text) {
  const made = make("td", "nothing", text);
  made.colSpan = columns;
  return make("tbody", "", make("tr", "", made));
}

const badge = (kind, text) => make("span", `badge ${kind}`, text);

// --- words for numbers ---

function count(value) {
  if (value >= 1e7) return `${(value / 1e6).toFixed(0)} M`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e5) return `${(value / 1e3).toFixed(0)} k`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(2);
}

function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
}

function seconds(value) {
  if (value >= 1) return `${value.toPrecision(2)} s`;
  if (value === 0) return "0 ms";
  return value >= 0.01 ? `${(value * 1e3).toFixed(0)} ms` : `${(value * 1e3).toPrecision(2)} ms`;
}

function ago(value) {
  if (value < 60) return `${value.toFixed(0)} s ago`;
  if (value < 5400) return `${(value / 60).toFixed(0)} min ago`;
  return value < 129600 ? `${(value / 3600).toFixed(0)} h ago` : `${(value / 86400).toFixed(0)} d ago`;
}

function meet(id, member) {
  addresses.set(id, member.address);
  states.set(id, member.state);
}

const isAway = (id) => ["dead", "left"].includes(states.get(id));
const nodeName = (id) => addresses.get(id) ?? id;

function node(id) {
  const made = make("span", addresses.has(id) ? "" : "id", nodeName(id));
  made.title = id;
  return made;
}

// --- asking ---

async function ask(path, fields = {}) {
  const query = new URLSearchParams(fields).toString();
  const answer = await fetch(`/api/v1/${path}${query ? `?${query}` : ""}`, { signal: AbortSignal.timeout(20000) });
  if (answer.status === 401) location.reload();
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.message ?? `the node answered ${answer.status}`);
  return data;
}

class Listing {
  // A table that comes in pages, with what is searched for.
  constructor(name) {
    this.name = name;
    this.offset = 0;
    this.form = byId(`${name}-controls`);
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => { this.offset = 0; look(); });
  }

  fields() {
    return { ...Object.fromEntries(new FormData(this.form)), offset: this.offset, limit: ROWS };
  }

  ask() { return ask(this.name, this.fields()); }

  pager(matched, total) {
    if (this.offset >= matched && this.offset > 0) this.offset = Math.max(0, Math.floor((matched - 1) / ROWS) * ROWS);
    const place = byId(`${this.name}-pager`);
    const last = Math.min(this.offset + ROWS, matched);
    const text = matched === 0 ? "" : `${this.offset + 1} to ${last} of ${matched}${matched < total ? ` found, ${total} in all` : ""}`;
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    const step = (label, offset, can) => {
      const button = make("button", "", label);
      button.type = "button";
      button.disabled = !can;
      button.addEventListener("click", () => { this.offset = offset; look(); });
      return button;
    };
    place.replaceChildren(...(text ? [text] : []));
    if (matched > ROWS) {
      place.prepend(step("Back", Math.max(0, this.offset - ROWS), this.offset > 0));
      place.append(step("Next", this.offset + ROWS, last < matched));
    }
  }
}

const listings = { members: new Listing("members"), groups: new Listing("groups") };

async function look() {
  if (asking) { asking = "again"; return; }
  asking = true;
  clearTimeout(timer);
  try {
    const [status, members, groups, history, happened] = await Promise.all([
      ask("status"), listings.members.ask(), listings.groups.ask(),
      ask("history", { after: points.at(-1)?.number ?? 0 }), ask("events", { after: events.at(-1)?.number ?? 0 }),
    ]);
    lastAnswer = now();
    keep(history.points, happened);
    showStatus(status);
    showMembers(members);
    showGroups(groups);
    showPlots();
    showEvents();
  } catch (error) {
    showFailure(error);
  }
  const again = asking === "again";
  asking = false;
  if (again) look();
  else if (!paused && !document.hidden) timer = setTimeout(look, EVERY_MS);
}

function keep(fresh, happened) {
  const at = now();
  points.push(...fresh.map((point) => ({ ...point, at: at - point.age_s })));
  points = points.filter((point) => at - point.at < SPAN_S + 30);
  if (events.length && happened.last < events.at(-1).number) events = []; // the node has started anew
  events.push(...happened.events.map((event) => ({ ...event, at: at - event.age_s })));
  events = events.slice(-EVENTS_KEPT);
}

// --- showing ---

function changed(place, data) {
  const text = JSON.stringify(data);
  if (place.shown === text) return false;
  place.shown = text;
  return true;
}

function showHealth(kind, text, reasons) {
  const place = byId("health");
  if (place.textContent !== text) {
    place.className = `badge ${kind}`;
    place.textContent = text;
  }
  const list = byId("reasons");
  if (changed(list, reasons)) {
    list.replaceChildren(...reasons.map((reason) => make("li", "", reason)));
    list.hidden = reasons.length === 0;
  }
}

function showFailure(error) {
  showHealth("bad", "no answer", [`The node does not answer: ${error.message}`]);
  byId("age").textContent = lastAnswer === null ? "" : `– what is shown is from ${ago(now() - lastAnswer)}`;
}

function showStatus(data) {
  const status = data.status;
  showHealth(data.healthy ? "well" : "bad", data.healthy ? "well" : "not well", data.reasons);
  const place = [status.data_center, status.rack].filter(Boolean).join(" / ");
  byId("place").textContent = place ? `${status.address} in ${place}` : status.address;
  byId("who").textContent = `node ${status.node_id}, cluster ${status.cluster_label}, durability ${status.durability}`;
  byId("age").textContent = status.leaving ? `– leaving: ${status.leaving}` : "";
  document.title = `${data.healthy ? "" : "! "}${status.address} – CopyCat`;
  const members = status.members;
  const known = members.alive + members.suspect + members.dead;
  const last = points.at(-1);
  const rate = (name) => (last?.rates[name] === undefined ? "–" : `${count(last.rates[name])}/s`);
  const latency = (name) => {
    const found = points.findLast((point) => point.latencies[name]);
    return found ? seconds(found.latencies[name].p99) : "–";
  };
  const tiles = [
    ["Members alive", `${members.alive} of ${known}`, [members.suspect && `${members.suspect} suspect`, members.dead && `${members.dead} dead`].filter(Boolean).join(", ")],
    ["Groups here", count(status.groups_hosted), `${count(status.groups_led)} led, ${count(status.groups_interactive)} with a consumer`],
    ["Items applied", rate("items"), "all groups together"],
    ["Commit, p99", latency("commit"), "proposals of this node"],
    ["Write, p99", latency("sync"), status.durability === "fsync" ? "synced" : "not synced"],
    ["Logs on disk", bytes(status.log_bytes), ""],
  ];
  if (changed(byId("tiles"), tiles)) {
    byId("tiles").replaceChildren(...tiles.map(([name, value, more]) =>
      make("div", "", make("dt", "", name), make("dd", "", value, more ? make("small", "", more) : null))));
  }
}

function memberBadge(member) {
  if (member.for_good) return badge("quiet", "left for good");
  const kinds = { alive: "well", suspect: "warn", dead: "bad", left: "quiet" };
  return badge(kinds[member.state] ?? "quiet", member.leaving ? `${member.state}, leaving` : member.state);
}

function showMembers(data) {
  listings.members.pager(data.matched, data.total);
  for (const member of data.members) meet(member.node_id, member);
  const table = byId("members");
  if (!changed(table, data)) return;
  table.querySelectorAll("tbody").forEach((body) => body.remove());
  if (!data.members.length) { table.append(nothing(4, "There is no such member.")); return; }
  const centers = Map.groupBy ? Map.groupBy(data.members, (one) => one.data_center) : groupBy(data.members, (one) => one.data_center);
  for (const [center, members] of centers) {
    const title = make("th", "place", center ? `Data centre ${center}` : "No data centre named");
    title.colSpan = 4;
    title.scope = "rowgroup";
    table.append(make("tbody", "", make("tr", "place-row", title), ...members.map((member) => make("tr", "",
      heading("Node", make("span", "id", member.node_id), member.this ? make("span", "here", " (this one)") : null),
      cell("Health", "", memberBadge(member)),
      cell("Rack", "", member.rack || "–"),
      cell("Address", "", member.address)))));
  }
}

function groupBy(list, key) {
  const found = new Map();
  for (const one of list) found.set(key(one), [...(found.get(key(one)) ?? []), one]);
  return found;
}

function groupBadge(group) {
  if (group.trouble === "under-replicated") {
    const living = group.voters.filter((peer) => !isAway(peer.node_id)).length;
    return badge("warn", `${living} of ${group.replicas_wanted} voters live`);
  }
  return group.trouble ? badge("bad", group.trouble) : badge("well", group.role);
}

function peers(group) {
  const made = make("div", "peers");
  for (const [list, mark] of [[group.voters, "○"], [group.learners, "·"]]) {
    for (const peer of list) {
      const away = isAway(peer.node_id);
      const lag = group.lag.find((one) => one.raft_id === peer.raft_id)?.entries;
      made.append(make("span", away ? "away" : "", `${peer.node_id === group.leader ? "●" : mark} `, node(peer.node_id),
        lag ? ` −${count(lag)}` : null, away ? ` (${states.get(peer.node_id)})` : null));
    }
  }
  return made;
}

function showGroups(data) {
  listings.groups.pager(data.matched, data.total);
  for (const [id, member] of Object.entries(data.nodes)) meet(id, member);
  const table = byId("groups");
  if (!changed(table, data)) return;
  table.tBodies[0].remove();
  if (!data.groups.length) {
    table.append(nothing(7, data.total ? "No group is like that." : "There is no group on this node."));
    return;
  }
  table.append(make("tbody", "", ...data.groups.map((group) => {
    const lags = group.lag.map((one) => one.entries);
    return make("tr", "",
      heading("Group", make("span", "id", group.id), group.interactive ? make("span", "here", " consumer here") : null),
      cell("State", "", groupBadge(group)),
      cell("Leader", "", group.leader === null ? "–" : node(group.leader)),
      cell("Voters", "", peers(group)),
      cell("Position", "number", count(group.commit_position)),
      cell("Lag", "number", lags.length ? count(Math.max(...lags)) : "–"),
      cell("Log", "number", bytes(group.log_bytes)));
  })));
}

function showPlots() {
  const at = now();
  const rate = (name) => (point) => point.rates[name];
  const latency = (name, share) => (point) => point.latencies[name]?.[share];
  draw(byId("plot-commits"), "Each second", points,
    [{ label: "proposed", value: rate("proposals") }, { label: "committed", value: rate("commits") }, { label: "applied", value: rate("items") }],
    count, at, 1);
  draw(byId("plot-commit-latency"), "Commit latency", points,
    [{ label: "p50", value: latency("commit", "p50") }, { label: "p99", value: latency("commit", "p99") }], seconds, at, 0.001);
  draw(byId("plot-sync-latency"), "Write to the disk", points,
    [{ label: "p50", value: latency("sync", "p50") }, { label: "p99", value: latency("sync", "p99") }], seconds, at, 0.001);
  draw(byId("plot-bytes"), "Bytes a second", points,
    [{ label: "sent", value: rate("sent_bytes") }, { label: "received", value: rate("received_bytes") }, { label: "written", value: rate("written_bytes") }],
    bytes, at, 1024);
}

const SAID = {
  joined: ["well", "member joined"], updated: ["quiet", "member changed"], suspected: ["warn", "member suspected"],
  refuted: ["well", "member is alive after all"], died: ["bad", "member died"], left: ["quiet", "member left"],
  reaped: ["quiet", "member dropped from the list"], leader: ["quiet", "new leader"],
};

function showEvents() {
  const at = now();
  const shown = events.slice(-EVENTS_SHOWN).reverse();
  const rows = shown.map((event) => [ago(at - event.at), event.number]);
  const table = byId("events");
  if (!changed(table, [rows, [...addresses]])) return;
  table.tBodies[0].remove();
  if (!shown.length) { table.append(nothing(3, "Nothing has happened since this node started.")); return; }
  table.append(make("tbody", "", ...shown.map((event) => {
    const [kind, text] = SAID[event.kind] ?? ["quiet", event.kind];
    const whom = event.node_id === null ? "a node that is not known yet" : node(event.node_id);
    return make("tr", "",
      heading("When", ago(at - event.at)),
      cell("What", "", badge(kind, text)),
      event.group === null ? cell("Whom", "", whom)
        : cell("Whom", "", whom, " leads ", make("span", "id", event.group), ` in term ${event.term}`));
  })));
}

// --- beginning ---

byId("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
  if (paused) clearTimeout(timer);
  else look();
});
window.addEventListener("resize", showPlots);
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); });
look();
