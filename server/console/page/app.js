// The page: a session by barrage.js, pushes through the API at the page's own address, and
// what both have to show.

import { Client, HEADER_SIZE } from "./barrage.js";

const LISTED = 200; // messages kept on the page
const SECONDS = 60; // of history in the figures
const RECENT = 10; // seconds that the percentiles are of
const SAMPLES = 2000; // latencies kept of one second
const HEARTBEAT = 10_000; // ms; as often as the cluster counts

const $ = (id) => document.getElementById(id);
const connectForm = $("connect-form").elements;
const pushForm = $("push-form").elements;
const now = () => performance.timeOrigin + performance.now();
const count = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

/** @type {Client | null} */
let client = null;
let settings = { api: "", websocket: "", websocket_port: 3102 };

/** Makes an element. Text is only ever set as text: what arrives can be anything. */
function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

const list = (text) => text.split(",").map((item) => item.trim()).filter(Boolean);
const sentence = (text) => `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`;
const plural = (n, one, many) => `${count.format(n)} ${n === 1 ? one : many}`;

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit++) {
    n /= 1000;
  }
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

function milliseconds(ms) {
  return ms < 9.95 ? ms.toFixed(1) : count.format(Math.round(ms));
}

// The push API.

/** Asks the push API; returns its envelope, or one that says why there is none. */
async function api(method, path, parameters, body) {
  const headers = {};
  if (pushForm.token.value) {
    headers.Authorization = `Bearer ${pushForm.token.value}`;
  }
  try {
    const response = await fetch(`${path}?${parameters}`, { method, body, headers, cache: "no-store" });
    const text = await response.text();
    try {
      return { status: response.status, text, ...JSON.parse(text) };
    } catch {
      return { status: response.status, text, code: -500, message: `status ${response.status}: ${text.slice(0, 200)}` };
    }
  } catch (err) {
    return { status: 0, text: "", code: -500, message: `this page's server does not answer (${err.message})` };
  }
}

// The session.

/** Where to connect: as the form says, as the page's process knows, or as the push API proposes. */
async function servers() {
  if (connectForm.url.value || settings.websocket) {
    return connectForm.url.value || settings.websocket;
  }
  const secure = location.protocol === "https:";
  const [scheme, platform] = secure ? ["wss", "web"] : ["ws", ""]; // a certificate needs a name, else an address does
  const { code, data } = await api("GET", "/goim/nodes/weighted", new URLSearchParams({ platform }));
  const port = (code === 0 && (secure ? data?.wss_port : data?.ws_port)) || settings.websocket_port;
  const nodes = (code === 0 && data?.nodes) || [];
  return [...new Set([...nodes, location.hostname])].map((node) => `${scheme}://${node}:${port}/sub`);
}

function connect() {
  const form = connectForm;
  remember();
  client?.close();
  const next = new Client({
    url: servers,
    room: form.room.value.trim(),
    key: form.key.value.trim(),
    mid: form.mid.value || 0,
    accepts: list(form.accepts.value).map(Number),
    heartbeat: HEARTBEAT,
  });
  client = next;
  for (const [event, handler] of Object.entries({ state: showState, message: arrived, online: showOnline, error: console.warn })) {
    next.on(event, (detail) => next === client && handler(detail));
  }
  $("room-input").value = form.room.value.trim();
  next.connect();
}

let nextTry = 0; // of connecting, when waiting

function showState({ state, url, reason, code, delay }) {
  nextTry = now() + delay;
  $("status").dataset.state = state;
  $("session-trouble").textContent = {
    waiting: `${sentence(reason)} Trying again.`,
    closed: code ? sentence(reason) : "",
  }[state] ?? "";
  const active = state !== "closed" && state !== "idle";
  const held = document.activeElement;
  $("connect-form").hidden = active;
  $("session-live").hidden = !active;
  if (held?.closest("[hidden]")) { // the keyboard stays where it was, so to speak
    (active ? $("disconnect") : $("connect")).focus();
  }
  for (const button of document.querySelectorAll("#room-form button, #sub-form button")) {
    button.disabled = state !== "open";
  }
  if (active) {
    $("fact-key").textContent = connectForm.key.value.trim() || "chosen by the server";
    $("fact-mid").textContent = connectForm.mid.value || "none";
    $("fact-url").textContent = url || "–";
  }
  if (state === "open") {
    lookAround();
  }
  showStatus();
  showRoom();
  showSubscriptions();
}

function showStatus() {
  const state = client?.state ?? "idle";
  const seconds = Math.ceil((nextTry - now()) / 1000);
  const text = {
    idle: "Not connected",
    connecting: "Connecting …",
    open: "Connected",
    waiting: `Reconnecting ${seconds > 0 ? `in ${seconds} s` : "…"}`,
    closed: "Not connected",
  }[state];
  if ($("status-text").textContent !== text) {
    $("status-text").textContent = text;
  }
}

function showRoom() {
  const room = client?.state === "open" ? client.room : "";
  $("online-room").textContent = room;
  $("leave-room").hidden = !room;
  showOnline(client?.online ?? -1);
}

function showOnline(online) {
  $("online").textContent = online < 0 || !client?.room ? "–" : count.format(online);
}

function showSubscriptions() {
  $("subs").replaceChildren(...(client?.accepts ?? []).map((op) => {
    const remove = element("button", { type: "button", "aria-label": `Unsubscribe from ${op}` }, "×");
    remove.onclick = () => ask(() => client.unsub([op]));
    return element("li", {}, String(op), remove);
  }));
}

/** Does something with the session and shows what came of it. */
async function ask(what) {
  try {
    await what();
    $("session-trouble").textContent = "";
  } catch (err) {
    $("session-trouble").textContent = `That did not work: ${err.message}.`;
  }
  connectForm.room.value = client.room;
  connectForm.accepts.value = client.accepts.join(", ");
  remember();
  showRoom();
  showSubscriptions();
}

function changeRoom(room) {
  return ask(async () => {
    await client.changeRoom(room);
    if (room) {
      pushForm.room.value = room;
    }
    $("room-input").value = room;
    showCurl();
  });
}

// Settings live in the address, so that a reload or a copied link brings the room back.

function remember() {
  const { room, accepts, mid } = connectForm;
  history.replaceState(null, "", `#${new URLSearchParams({ room: room.value, accepts: accepts.value, ...(mid.value && { mid: mid.value }) })}`);
}

/** Fills the forms; says whether the address has settings to connect with. */
function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["room", "accepts", "mid"]) {
    if (given.has(name)) {
      connectForm[name].value = given.get(name);
    }
  }
  let key = sessionStorage.getItem("key");
  if (!key) {
    key = `tab-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    sessionStorage.setItem("key", key);
  }
  connectForm.key.value = key;
  pushForm.keys.value = key;
  pushForm.mids.value = connectForm.mid.value;
  pushForm.room.value = connectForm.room.value;
  return given.has("room") && $("connect-form").checkValidity();
}

// Arrivals.

/** What happened in each second, the newest last. */
const history60 = [{ messages: 0, latencies: [] }];
const total = { messages: 0, bytes: 0 };
let fresh = []; // arrived, not drawn yet
let paused = false;
const spoken = { messages: 0, at: 0 };

function arrived(message) {
  total.messages++;
  total.bytes += message.size;
  const second = history60.at(-1);
  second.messages++;
  const stamped = message.body[0] === 0x7b ? message.json : undefined; // "{"
  const latency = typeof stamped?.t === "number" ? message.at - stamped.t : NaN;
  const credible = latency > -1000 && latency < 60_000; // else another clock, or another meaning of t
  if (credible && second.latencies.length < SAMPLES) {
    second.latencies.push(Math.max(0, latency));
  }
  if (paused) {
    return;
  }
  if (fresh.push({ message, latency: credible ? Math.max(0, latency) : NaN, stamped: credible ? stamped : undefined }) === 1) {
    setTimeout(drawArrivals, 50);
  } else if (fresh.length > LISTED) {
    fresh.shift();
  }
}

function drawArrivals() {
  if (fresh.length === 0) {
    return;
  }
  const rows = fresh.splice(0).reverse().map(row);
  if (rows.length < 3) { // a busy list need not flash
    rows.forEach((r) => r.classList.add("fresh"));
  }
  const messages = $("messages");
  $("empty").hidden = true;
  messages.prepend(...rows);
  while (messages.children.length > LISTED) {
    messages.lastChild.remove();
  }
  drawTotals();
}

function row({ message, latency, stamped }) {
  const text = typeof stamped?.text === "string" ? stamped.text : readable(message.body);
  const at = new Date(message.at);
  return element("li", {},
    element("time", { datetime: at.toISOString() }, clock.format(at)),
    element("span", { class: "op", title: "operation" }, String(message.op)),
    element("span", { class: "text" }, text),
    element("span", { class: "to", title: "where it was pushed to, as the message says itself" }, typeof stamped?.to === "string" ? stamped.to.slice(0, 60) : ""),
    element("span", { class: "size", title: `${message.body.length} bytes of body, ${HEADER_SIZE} of header` }, bytes(message.size)),
    element("span", { class: "latency", title: "from the push to the arrival here" }, Number.isNaN(latency) ? "" : `${milliseconds(latency)} ms`));
}

/** A body as text, cut to what a row can hold; what is not UTF-8 as hexadecimal. */
function readable(body) {
  const part = body.subarray(0, 2000);
  const more = body.length > part.length ? " …" : "";
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(part, { stream: more !== "" }) + more;
  } catch {
    return Array.from(part.subarray(0, 64), (b) => b.toString(16).padStart(2, "0")).join(" ") + (body.length > 64 ? " …" : "");
  }
}

function drawTotals() {
  $("received").textContent = count.format(total.messages);
  $("received-bytes").textContent = bytes(total.bytes);
}

// Figures.

const percentile = (sorted, p) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))];
const inOrder = (latencies) => Float64Array.from(latencies).sort();

/** The line through values, of which NaN leaves a gap; it ends at the right edge. */
function line(values, top) {
  let path = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (Number.isNaN(value)) {
      pen = "M";
      return;
    }
    const x = 120 * (1 - (values.length - 1 - i) / (SECONDS - 1));
    path += `${pen}${x.toFixed(1)} ${(26.5 - 25 * (value / top)).toFixed(1)}`;
    if (pen === "M") {
      path += `h.01`; // a point that stands alone is seen as well
    }
    pen = "L";
  });
  return path;
}

function tick() {
  const done = history60.slice(0, -1);
  const last = done.at(-1);
  $("rate").textContent = count.format(last ? last.messages : 0);
  const latencies = inOrder(history60.slice(-RECENT - 1).flatMap((second) => second.latencies));
  $("p50").textContent = latencies.length ? milliseconds(percentile(latencies, 0.5)) : "–";
  $("p99").textContent = latencies.length ? milliseconds(percentile(latencies, 0.99)) : "–";

  const rates = done.map((second) => second.messages);
  const rateLine = rates.length ? line(rates, Math.max(1, ...rates)) : "";
  const first = 120 * (1 - (rates.length - 1) / (SECONDS - 1));
  $("rate-spark").querySelector(".line").setAttribute("d", rateLine);
  $("rate-spark").querySelector(".area").setAttribute("d", rateLine && `${rateLine}L120 28L${first.toFixed(1)} 28Z`);
  const ordered = done.map((second) => inOrder(second.latencies));
  const p50 = ordered.map((o) => (o.length ? percentile(o, 0.5) : NaN));
  const p99 = ordered.map((o) => (o.length ? percentile(o, 0.99) : NaN));
  const top = Math.max(1, ...p99.filter((v) => !Number.isNaN(v)));
  $("latency-spark").querySelector(".line").setAttribute("d", line(p50, top));
  $("latency-spark").querySelector(".faint").setAttribute("d", line(p99, top));

  history60.push({ messages: 0, latencies: [] });
  if (history60.length > SECONDS + 1) {
    history60.shift();
  }
  drawArrivals(); // what is counted and told is listed
  drawTotals();
  showStatus();
  speak();
}

/** Tells a screen reader of arrivals, without reading all of a busy room out. */
function speak() {
  const news = total.messages - spoken.messages;
  if (news === 0 || now() - spoken.at < 5000) {
    return;
  }
  Object.assign(spoken, { messages: total.messages, at: now() });
  const newest = $("messages").querySelector(".text")?.textContent.slice(0, 100) ?? "";
  $("spoken").textContent = `${plural(news, "new message", "new messages")}${newest && `, the newest: ${newest}`}`;
}

// Pushing.

/** The request that the form stands for. */
function pushRequest() {
  const form = pushForm;
  const to = form.to.value;
  const parameters = new URLSearchParams({ operation: form.operation.value });
  let target = "everyone";
  switch (to) {
    case "room": {
      const [type, ...id] = form.room.value.trim().split("://");
      parameters.set("type", type);
      parameters.set("room", id.join("://"));
      target = form.room.value.trim();
      break;
    }
    case "all":
      parameters.set("speed", form.speed.value);
      break;
    default:
      list(form[to].value).forEach((item) => parameters.append(to, item));
      target = `${to === "keys" ? "key" : "member"} ${list(form[to].value).join(", ")}`;
  }
  const text = form.text.value;
  const body = form.stamp.checked ? JSON.stringify({ t: Math.round(now() * 10) / 10, to: target, text }) : text;
  return { path: `/goim/push/${to}`, parameters, body };
}

async function push() {
  const { path, parameters, body } = pushRequest();
  const start = performance.now();
  const answer = await api("POST", path, parameters, body);
  $("answer").className = answer.code === 0 ? "answer" : "answer bad";
  $("answer").textContent = answer.status
    ? `${answer.status} ${answer.text.slice(0, 500)} in ${milliseconds(performance.now() - start)} ms`
    : answer.message;
}

let repeating;

function repeat(aSecond) {
  clearInterval(repeating);
  repeating = aSecond ? setInterval(push, 1000 / aSecond) : undefined;
  $("push").textContent = aSecond ? "Stop" : "Push";
}

function showTarget() {
  for (const field of document.querySelectorAll("[data-for]")) {
    const shown = field.dataset.for === pushForm.to.value;
    field.hidden = !shown;
    field.querySelector("input").disabled = !shown; // nothing hidden can be invalid
  }
}

function showCurl() {
  const { path, parameters, body } = pushRequest();
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const token = pushForm.token.value ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  // --data-binary would read a file if the message began with @.
  $("curl").textContent = `curl --data-raw ${quoted(body)}${token} ${quoted(`http://${settings.api}${path}?${parameters}`)}`;
}

// The cluster.

/** Looks at the cluster, and again after a while as long as the page is seen. */
async function lookAround() {
  clearTimeout(lookAround.timer);
  if (!document.hidden) {
    const type = (client?.room || connectForm.room.value || "live://").split("://")[0];
    const [totals, rooms, comets] = await Promise.all([
      api("GET", "/goim/online/total", ""),
      api("GET", "/goim/online/top", new URLSearchParams({ type, limit: 6 })),
      api("GET", "/goim/nodes/instances", ""),
    ]);
    showCluster(type, totals, rooms, comets);
  }
  clearTimeout(lookAround.timer);
  lookAround.timer = setTimeout(lookAround, 5000);
}

function showCluster(type, totals, rooms, comets) {
  $("cluster-trouble").textContent = totals.code === 0 ? "" : sentence(totals.message);
  $("rooms-part").hidden = rooms.code !== 0 || !rooms.data?.length;
  $("comets-part").hidden = comets.code !== 0 || !comets.data?.length;
  if (totals.code === 0) {
    const { conn_count: conns = 0, ip_count: addresses = 0 } = totals.data ?? {};
    $("totals").replaceChildren(element("b", {}, count.format(conns)), ` ${conns === 1 ? "connection" : "connections"} from `,
      element("b", {}, count.format(addresses)), ` ${addresses === 1 ? "address" : "addresses"}`);
  } else {
    $("totals").textContent = "";
  }
  $("rooms-type").textContent = `of type ${type}`;
  const largest = Math.max(1, ...(rooms.data ?? []).map((room) => room.count));
  update($("rooms"), (rooms.data ?? []).map((room) => {
    const key = room.room_id.includes("://") ? room.room_id : `${type}://${room.room_id}`;
    const name = element("button", { type: "button", title: `Go to ${key}` }, key);
    name.onclick = () => goTo(key);
    const item = element("li", {},
      name, element("span", {}, count.format(room.count)));
    item.style.setProperty("--share", `${(100 * room.count) / largest}%`);
    return item;
  }));
  update($("comets"), (comets.data ?? []).slice(0, 50).map(({ hostname, region, zone, metadata = {} }) => element("li", {},
    element("div", { class: "name" }, hostname, element("span", {}, metadata.conn_count ? plural(Number(metadata.conn_count), "connection", "connections") : "")),
    element("div", { class: "about" }, [
      [region, zone].filter(Boolean).join(" / "),
      metadata.weight && `weight ${metadata.weight}`,
      metadata.offline === "true" && "offline",
    ].filter(Boolean).join(" · ")))));
}

/** Replaces a list's items only if they changed, so that the focus stays. */
function update(container, items) {
  const next = element("div", {}, ...items);
  if (container.innerHTML !== next.innerHTML) {
    const held = [...container.querySelectorAll("button")].indexOf(document.activeElement);
    container.replaceChildren(...next.children);
    container.querySelectorAll("button")[held]?.focus();
  }
}

function goTo(room) {
  if (client?.state === "open") {
    changeRoom(room);
    return;
  }
  connectForm.room.value = room;
  pushForm.room.value = room;
}

// Wiring.

function submit(id, handler) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    handler();
  });
}

submit("connect-form", () => {
  pushForm.room.value = connectForm.room.value || pushForm.room.value;
  pushForm.keys.value = connectForm.key.value || pushForm.keys.value;
  pushForm.mids.value = connectForm.mid.value || pushForm.mids.value;
  connect();
});
submit("room-form", () => changeRoom($("room-input").value.trim()));
submit("sub-form", () => ask(async () => {
  await client.sub(list($("sub-input").value).map(Number));
  $("sub-input").value = "";
}));
submit("push-form", () => {
  const aSecond = Number(pushForm.repeat.value);
  if (repeating) {
    repeat(0);
    return;
  }
  push();
  repeat(aSecond);
});
$("leave-room").onclick = () => changeRoom("");
$("disconnect").onclick = () => client.close();
$("pause").onclick = () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
};
$("clear").onclick = () => {
  fresh = [];
  $("messages").replaceChildren();
  $("empty").hidden = false;
};
$("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copy").textContent = "Copied";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  } catch { // no clipboard over plain HTTP from another machine
    getSelection().selectAllChildren($("curl"));
  }
};
$("push-form").addEventListener("input", () => {
  showTarget();
  showCurl();
});
pushForm.repeat.addEventListener("change", () => repeating && repeat(Number(pushForm.repeat.value)));
document.addEventListener("keydown", ({ key, target }) => key === "Escape" && target.closest(".hint") && target.blur());
addEventListener("online", () => client?.state === "waiting" && client.connect());
document.addEventListener("visibilitychange", () => document.hidden || lookAround());

const again = recall();
showTarget();
settings = await fetch("/console.json").then((response) => response.json(), () => settings);
if (settings.websocket) {
  connectForm.url.value = settings.websocket;
  connectForm.url.readOnly = true;
}
showCurl();
setInterval(tick, 1000);
if (again) {
  connect();
}
lookAround();
