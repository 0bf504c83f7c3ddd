// The flame graph of costs a delivery, and of how two sides' costs differ. The page carries
// its data; nothing is fetched.

const data = JSON.parse(document.getElementById("data").textContent);
const two = data.sides.length === 2;
const rowHeight = 21; // CSS pixels
const thinnest = 0.5; // what is narrower is not drawn
const labelled = 26; // narrower boxes get no name

const $ = (id) => document.getElementById(id);

// grow makes nodes of the data's rows, each of which comes before its children.
function grow(rows) {
  const way = [];
  const nodes = rows.map(([depth, f, inlined, a, eventsA, b = 0, eventsB = 0, within = 0, changed = 0], id) => {
    const node = { id, depth, f, inlined, a, eventsA, b, eventsB, within, changed, children: [], parent: way[depth - 1] ?? null };
    node.parent?.children.push(node);
    way[depth] = node;
    return node;
  });
  return nodes;
}

const nodes = grow(data.nodes);
const root = nodes[0];
const name = (node) => data.functions[node.f][0];
const wholeName = (node) => data.functions[node.f][1];
const self = (node, side) => Math.max(0, node[side] - node.children.reduce((sum, c) => sum + c[side], 0));

// What is seen: the side that widths are of, the zoom and those before it, the node under
// the pointer or the keyboard's cursor, and what is searched for.
const view = { side: two ? "b" : "a", zoom: root, before: [], at: null, byKey: false, matches: null, rows: [], width: 0 };

// place gives every node that is wide enough its box: the ones above the zoom the whole
// width, the ones below it the part that they cost of it.
function place(zoom, side, width) {
  const rows = [];
  for (let n = zoom.parent; n; n = n.parent) rows[n.depth] = [{ node: n, x: 0, w: width, above: true }];
  const whole = zoom[side];
  const put = (node, x, w) => {
    (rows[node.depth] ??= []).push({ node, x, w, above: false });
    for (const child of node.children) {
      const part = whole > 0 ? (child[side] / whole) * width : 0;
      if (part >= thinnest) put(child, x, part);
      x += part;
    }
  };
  put(zoom, 0, width);
  return rows;
}

// search returns the nodes that text is in the name of, or is a pattern for.
function search(text) {
  text = text.trim().toLowerCase();
  if (!text) return null;
  let pattern = null;
  try { pattern = new RegExp(text, "i"); } catch { /* it is no pattern, but may be a part of a name */ }
  const hit = data.functions.map(([short, whole]) => [short, whole].some((s) => s.toLowerCase().includes(text) || pattern?.test(s)));
  return new Set(nodes.filter((n) => hit[n.f]));
}

// matched adds up what the matches below node cost; a match within another counts once.
function matched(node, matches, side) {
  if (matches.has(node)) return node[side];
  return node.children.reduce((sum, c) => sum + matched(c, matches, side), 0);
}

function digits(v) {
  const a = Math.abs(v);
  if (a < 0.0005) return "0";
  if (a < 0.9995) return v.toFixed(3);
  if (a < 9.995) return v.toFixed(2);
  if (a < 99.95) return v.toFixed(1);
  return Math.round(v).toLocaleString("en-US");
}
const signed = (v) => (v > 0 ? "+" : "") + digits(v);
const share = (v, of) => (of > 0 ? ((v / of) * 100).toFixed(1) + "%" : "0%");
const unit = (v) => digits(v) + (data.symbol ? " " + data.symbol : "");

// changeOf says what became of a node.
function changeOf(node) {
  if (!node.changed) return "same";
  if (node.a === 0) return "new";
  if (node.b === 0) return "gone";
  return node.b > node.a ? "more" : "less";
}

function changeText(node) {
  const delta = node.b - node.a;
  const figures = `${signed(delta)} ±${digits(node.within)}`;
  const what = changeOf(node);
  if (what === "same") return `no difference that ${data.runs} runs can show (${figures})`;
  if (what === "new" || what === "gone") return `${what}: ${figures}`;
  return `${figures} (${delta > 0 ? "+" : ""}${((delta / node.a) * 100).toFixed(1)}%)`;
}

// Colours come from the style sheet, which knows light and dark.

function parse(hex) {
  const n = Number.parseInt(hex.trim().slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}
const mix = (a, b, t) => a.map((v, i) => Math.round(v + (b[i] - v) * t));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (x, y) => (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const get = (key) => parse(style.getPropertyValue("--" + key));
  const c = { origins: data.origins.map((_, i) => get("origin-" + i)) };
  for (const key of ["page", "ink", "plain", "more", "less", "new", "gone", "match", "focus"]) c[key] = get(key);
  return c;
}
let colours = readColours();

function fillOf(node) {
  if (!two) {
    const origin = data.functions[node.f][2];
    return origin < 0 ? colours.plain : colours.origins[origin];
  }
  const what = changeOf(node);
  if (what === "same") return colours.plain;
  if (what === "new" || what === "gone") return colours[what];
  const part = Math.abs(node.b - node.a) / Math.max(node.a, node.b);
  return mix(colours.plain, colours[what], 0.3 + 0.7 * Math.min(1, part * 1.5));
}

const css = (rgb, alpha = 1) => `rgb(${rgb.join(" ")} / ${alpha})`;

// inkOn returns black or white, whichever is read better on fill.
function inkOn(fill) {
  const l = luminance(fill);
  return ratio(l, 1) > ratio(l, 0) ? [255, 255, 255] : [20, 19, 18];
}

// The canvas.

const canvas = $("graph");
const paint = canvas.getContext("2d");
const font = "12px system-ui, sans-serif";

function layout() {
  view.width = canvas.parentElement.clientWidth;
  view.rows = place(view.zoom, view.side, view.width);
  draw();
}

// fit returns as much of text as is at most so wide.
function fit(text, most) {
  if (paint.measureText(text).width <= most) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (paint.measureText(text.slice(0, middle) + "…").width <= most) low = middle; else high = middle - 1;
  }
  return low > 1 ? text.slice(0, low) + "…" : "";
}

function draw() {
  const scale = window.devicePixelRatio || 1;
  const height = view.rows.length * rowHeight;
  if (canvas.width !== Math.round(view.width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(view.width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = height + "px";
  }
  paint.setTransform(scale, 0, 0, scale, 0, 0);
  paint.clearRect(0, 0, view.width, height);
  paint.font = font;
  paint.textBaseline = "middle";
  view.rows.forEach((row, depth) => row.forEach((box) => drawBox(box, depth * rowHeight)));
}

function drawBox({ node, x, w, above }, y) {
  const gap = w > 3 ? 1 : 0;
  const found = view.matches?.has(node);
  let fill = fillOf(node);
  if (above || (view.matches && !found)) fill = mix(fill, colours.page, 0.65);
  if (node === view.at) fill = mix(fill, colours.ink, 0.14);
  paint.fillStyle = css(fill);
  paint.fillRect(x, y, w - gap, rowHeight - 1);
  if (found) {
    paint.fillStyle = css(colours.match);
    paint.fillRect(x, y + rowHeight - 4, w - gap, 3);
  }
  if (node === view.at && view.byKey) {
    paint.strokeStyle = css(colours.focus);
    paint.lineWidth = 2;
    paint.strokeRect(x + 1, y + 1, Math.max(1, w - gap - 2), rowHeight - 3);
  }
  if (w < labelled) return;
  const text = fit(name(node), w - gap - 9);
  if (!text) return;
  paint.fillStyle = css(inkOn(fill));
  paint.fillText(text, x + 5, y + rowHeight / 2 - 0.5);
}

function boxOf(node) {
  return view.rows[node.depth]?.find((box) => box.node === node) ?? null;
}

// boxAt returns the box at a point of the canvas, in CSS pixels.
function boxAt(x, y) {
  const row = view.rows[Math.floor(y / rowHeight)] ?? [];
  return row.find((box) => x >= box.x && x < box.x + Math.max(box.w, 1)) ?? null;
}

// What is said of the node at the pointer or cursor.

function element(tag, text, ...children) {
  const e = document.createElement(tag);
  if (text) e.textContent = text;
  e.append(...children);
  return e;
}

function tableRow(head, cells) {
  return element("tr", "", element("th", head), ...cells.map((c) => element("td", c)));
}

function describe(node) {
  const table = element("table");
  const sides = two ? ["a", "b"] : ["a"];
  const events = { a: node.eventsA, b: node.eventsB };
  if (two) table.append(tableRow("", ["A", "B"]));
  table.append(
    tableRow(data.in, sides.map((s) => digits(node[s]))),
    tableRow("of all", sides.map((s) => share(node[s], root[s]))),
  );
  if (view.zoom !== root) table.append(tableRow("of what is zoomed to", sides.map((s) => share(node[s], view.zoom[s]))));
  table.append(
    tableRow("by itself", sides.map((s) => unit(self(node, s)))),
    tableRow(data.sampled, sides.map((s) => Math.round(events[s]).toLocaleString("en-US"))),
  );
  const parts = [element("strong", name(node))];
  if (wholeName(node) !== name(node)) parts.push(element("small", wholeName(node)));
  if (node.inlined) parts.push(element("small", "inlined into its caller"));
  parts.push(table);
  if (two) parts.push(element("p", changeText(node)));
  return parts;
}

function say(node) {
  const side = view.side;
  const figures = two ? `A ${digits(node.a)}, B ${digits(node.b)} ${data.in}, ${changeText(node)}` : `${digits(node.a)} ${data.in}`;
  $("said").textContent = `${name(node)}: ${figures}, ${share(node[side], root[side])} of all`;
}

const tip = $("tip");

function showTip(x, y) {
  tip.replaceChildren(...describe(view.at));
  tip.hidden = false;
  const most = canvas.parentElement.clientWidth - tip.offsetWidth;
  tip.style.left = Math.max(0, Math.min(x + 14, most)) + "px";
  // Above the pointer where there is no room in the window below it.
  const top = canvas.getBoundingClientRect().top;
  const below = top + y + 18 + tip.offsetHeight < window.innerHeight;
  tip.style.top = (below || top + y - 12 - tip.offsetHeight < 0 ? y + 18 : y - 12 - tip.offsetHeight) + "px";
}

function point(node, byKey, x, y) {
  if (node !== view.at || byKey !== view.byKey) {
    view.at = node;
    view.byKey = byKey;
    draw();
  }
  if (!node) {
    tip.hidden = true;
    return;
  }
  showTip(x, y);
}

// select puts the keyboard's cursor on a node that is drawn.
function select(node) {
  const box = boxOf(node);
  if (!box) return;
  const y = box.node.depth * rowHeight;
  const top = canvas.getBoundingClientRect().top + y;
  if (top < 120 || top > window.innerHeight - 60) window.scrollBy({ top: top - window.innerHeight / 2 });
  point(node, true, box.x + Math.min(box.w / 2, 160), y + rowHeight / 2);
  say(node);
}

// Zooming.

function zoomTo(node, keep = true) {
  if (node === view.zoom) return;
  if (keep) view.before.push(view.zoom);
  view.zoom = node;
  seen();
}

function back() {
  if (view.before.length) zoomTo(view.before.pop(), false);
}

function reset() {
  if (view.zoom !== root) zoomTo(root);
}

// seen shows what the view says.
function seen() {
  // What costs nothing on the side that is shown can't be zoomed to.
  while (view.zoom.parent && !(view.zoom[view.side] > 0)) view.zoom = view.zoom.parent;
  tip.hidden = true;
  view.at = null;
  layout();
  const way = [];
  for (let n = view.zoom; n; n = n.parent) way.unshift(n);
  const shown = way.length > 4 ? [way[0], ...way.slice(-3)] : way;
  $("path").replaceChildren(...shown.map((n) => {
    const b = element("button", n === view.zoom && n !== root ? `${name(n)}, ${share(n[view.side], root[view.side])} of all` : name(n));
    b.type = "button";
    b.addEventListener("click", () => zoomTo(n));
    return b;
  }));
  $("path").classList.toggle("whole", view.zoom === root); // it keeps its place, or the graph would jump
  $("back").disabled = view.before.length === 0;
  $("reset").disabled = view.zoom === root;
  showMatched();
}

function widths(side) {
  view.side = side;
  $("by-a").setAttribute("aria-pressed", String(side === "a"));
  $("by-b").setAttribute("aria-pressed", String(side === "b"));
  seen();
}

// Searching.

function showMatched() {
  if (!view.matches) {
    $("matched").textContent = "";
    return;
  }
  const part = (side) => {
    const sum = matched(view.zoom, view.matches, side);
    return `${share(sum, view.zoom[side])}${two ? " of " + side.toUpperCase() : ""} (${unit(sum)})`;
  };
  const where = view.zoom === root ? "" : " of what is zoomed to";
  $("matched").textContent = view.matches.size === 0 ? "no match" : `matched ${(two ? ["a", "b"] : ["a"]).map(part).join(", ")}${where}`;
}

function find(text) {
  view.matches = search(text);
  showMatched();
  draw();
}

// step goes to the next match in the order of their cost, and zooms where it is too thin.
function step(by) {
  const list = [...(view.matches ?? [])].filter((n) => n[view.side] > 0).sort((x, y) => y[view.side] - x[view.side] || x.id - y.id);
  if (!list.length) return;
  const node = list[(list.indexOf(view.at) + by + list.length + (view.at && list.includes(view.at) ? 0 : by < 0 ? 1 : 0)) % list.length];
  if (!boxOf(node)) {
    const parent = node.parent;
    zoomTo(parent && (node[view.side] / parent[view.side]) * view.width >= 4 ? parent : node);
  }
  select(node);
}

// What the user does.

function pointerPlace(e) {
  const r = canvas.getBoundingClientRect();
  return [e.clientX - r.left, e.clientY - r.top];
}

canvas.addEventListener("pointermove", (e) => {
  if (e.pointerType === "touch") return;
  const [x, y] = pointerPlace(e);
  point(boxAt(x, y)?.node ?? null, false, x, y);
});
canvas.addEventListener("pointerleave", (e) => {
  if (e.pointerType !== "touch" && !view.byKey) point(null, false, 0, 0);
});
canvas.addEventListener("click", (e) => {
  const [x, y] = pointerPlace(e);
  const node = boxAt(x, y)?.node;
  if (!node) return point(null, false, 0, 0);
  // A finger can't hover: the first touch tells of a box, the second zooms.
  if (e.pointerType === "touch" && node !== view.at) return point(node, false, x, y);
  zoomTo(node);
});

// neighbour returns the node that an arrow leads to.
function neighbour(key) {
  const node = view.at && boxOf(view.at) ? view.at : null;
  if (!node) return view.zoom;
  const row = view.rows[node.depth];
  const i = row.findIndex((box) => box.node === node);
  switch (key) {
    case "ArrowUp": return node.parent;
    case "ArrowDown": {
      const below = (view.rows[node.depth + 1] ?? []).filter((box) => box.node.parent === node);
      return below.reduce((most, box) => (!most || box.w > most.w ? box : most), null)?.node;
    }
    case "ArrowLeft": return row[i - 1]?.node;
    default: return row[i + 1]?.node;
  }
}

canvas.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key.startsWith("Arrow")) {
    const node = neighbour(e.key);
    if (node) select(node);
  } else if (e.key === "Enter" || e.key === " ") {
    const node = view.at;
    if (node) {
      zoomTo(node);
      select(node);
    }
  } else {
    return;
  }
  e.preventDefault();
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = e.target === $("search");
  if (e.key === "Escape") {
    if (typing && $("search").value) {
      $("search").value = "";
      find("");
    } else {
      reset();
    }
  } else if (e.key === "/" && !typing) {
    $("search").focus();
  } else if (e.key === "Backspace" && !typing) {
    back();
  } else {
    return;
  }
  e.preventDefault();
});
$("search").addEventListener("input", (e) => find(e.target.value));
$("search").addEventListener("keydown", (e) => {
  if (e.key !== "Enter") return;
  e.preventDefault();
  step(e.shiftKey ? -1 : 1);
});
$("back").addEventListener("click", back);
$("reset").addEventListener("click", reset);
$("by-a").addEventListener("click", () => widths("a"));
$("by-b").addEventListener("click", () => widths("b"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours = readColours();
  draw();
});

// The words around it.

function legend() {
  const entry = (colour, text) => {
    const mark = element("i");
    mark.style.background = `var(--${colour})`;
    return element("li", "", mark, text);
  };
  if (!two) {
    const used = new Set(nodes.map((n) => data.functions[n.f][2]));
    return data.origins.map((o, i) => [o, i]).filter(([, i]) => used.has(i)).map(([o, i]) => entry("origin-" + i, o));
  }
  return [entry("more", "more in B"), entry("less", "less in B"), entry("new", "new in B"), entry("gone", "gone in B (widths of A)"), entry("plain", `no difference that ${data.runs} runs can show`)];
}

$("summary").textContent = `${data.kind}: ${data.summary}`.replace("+-", "±");
data.sides.forEach((text, i) => $("sides").append(element("dt", two ? "AB"[i] : "Run"), element("dd", `${text}; ${data.basis[i]}`)));
$("doubts").append(...data.doubts.map((line) => element("li", line)));
$("doubts").hidden = data.doubts.length === 0;
$("widths").hidden = !two;
$("legend").append(...legend());
$("method").textContent = data.method;
new ResizeObserver(() => {
  if (canvas.parentElement.clientWidth !== view.width) layout();
}).observe(canvas.parentElement);
seen();
