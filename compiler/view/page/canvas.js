// Draws a scene: pan, zoom, open, select. Only what is in sight has elements, so that thousands of nodes stay quick.

const MARGIN = 0.6, TEXT_SCALE = 0.32, LEAST_SCALE = 0.02, MOST_SCALE = 2.5, START_BOXES = 36;

class Canvas {
  /** open: keys of open items; status: (node) -> "", "new", "gone", "changed" or "moved"; events: select, toggle. */
  constructor(host, { graph, open, status = () => "", onselect, ontoggle, label }) {
    Object.assign(this, { host, graph, open, status, onselect, ontoggle });
    this.view = { x: 0, y: 0, scale: 1 };
    this.selected = null;
    this.tallies = new Map();
    this.grounds = svg("g");
    this.lines = svg("g", { class: "lines" });
    this.boxes = svg("g");
    this.world = svg("g", {}, this.grounds, this.lines, this.boxes);
    this.svg = svg("svg", { class: "canvas", role: "group", "aria-label": label }, arrowHead(), this.world);
    host.append(this.svg, this.buttons());
    this.listen();
    this.refresh();
    new ResizeObserver(() => { if (!this.fitted) this.fit(); else this.draw(); }).observe(host);
  }

  buttons() {
    const icon = (path) => svg("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: path }));
    const button = (path, title, act) => el("button", { type: "button", title, "aria-label": title, onclick: act }, icon(path));
    return el("div", { class: "zoom", role: "toolbar", "aria-label": "Drawing" },
      button("M3 8H13M8 3V13", "Zoom in  (+)", () => this.zoom(1.4)), button("M3 8H13", "Zoom out  (-)", () => this.zoom(1 / 1.4)),
      button("M2 6V2H6M10 2H14V6M14 10V14H10M6 14H2V10", "Show all  (f)", () => this.fit()),
      button("M4 6L8 2L12 6M4 10L8 14L12 10", "Unfold everything  (e)", () => this.unfold(true)),
      button("M4 2L8 6L12 2M4 14L8 10L12 14", "Fold everything  (c)", () => this.unfold(false)));
  }

  /** New places after something was opened. held: the key of a box that stays where it is on the screen. */
  refresh(held = null) {
    const before = held ? this.scene.byKey.get(held) : null;
    this.scene = makeScene(this.graph, { open: this.open, notes: (item) => this.notes(item) });
    const after = held ? this.scene.byKey.get(held) : null;
    if (before && after) {
      this.view.x += (before.x - after.x) * this.view.scale;
      this.view.y += (before.y - after.y) * this.view.scale;
    }
    this.drawn = null;
    this.draw();
  }

  size() { return [this.host.clientWidth, this.host.clientHeight]; }

  fit() {
    const [width, height] = this.size();
    if (!width || !height) return;
    const scale = Math.min((width - 60) / (this.scene.width || 1), (height - 60) / (this.scene.height || 1), 1.1);
    const readable = Math.max(scale, Math.min(0.7, (width - 60) / (this.scene.width || 1)), LEAST_SCALE);
    this.view = { scale: readable, x: (width - this.scene.width * readable) / 2,
      y: Math.max(24, (height - this.scene.height * readable) / 2) };
    this.fitted = true;
    this.drawn = null;
    this.draw();
  }

  zoom(factor, at = null) {
    const [width, height] = this.size(), [px, py] = at ?? [width / 2, height / 2];
    const scale = Math.min(MOST_SCALE, Math.max(LEAST_SCALE, this.view.scale * factor)), ratio = scale / this.view.scale;
    this.view = { scale, x: px - (px - this.view.x) * ratio, y: py - (py - this.view.y) * ratio };
    this.draw();
  }

  unfold(all) {
    const visit = (item) => { for (const child of item.children) if (child.opens && !child.node) { this.open.add(child.key); visit(child); } };
    this.open.clear();
    if (all) visit(this.graph.root);
    this.ontoggle(null);
    this.fit();
  }

  /** Opens what is around a node, and brings it to the middle. */
  reveal(node) {
    const chain = itemPath(this.graph, node), last = chain[chain.length - 1];
    const closed = chain.slice(1, -1).filter((item) => !this.open.has(item.key));
    closed.forEach((item) => this.open.add(item.key));
    this.select(last);
    if (closed.length) this.ontoggle(null);
    const box = this.scene.byKey.get(last.key), [width, height] = this.size();
    if (!box) return;
    const scale = Math.max(this.view.scale, 0.7);
    this.view = { scale, x: width / 2 - (box.x + box.width / 2) * scale, y: height / 2 - (box.y + Math.min(box.height, 200) / 2) * scale };
    this.fitted = true;
    this.drawn = null;
    this.draw();
  }

  select(item) {
    this.selected = item?.key ?? null;
    this.drawn = null;
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
  }

  paint() {
    const { x, y, scale } = this.view, [width, height] = this.size();
    this.world.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    const sight = [-x / scale, -y / scale, (width - x) / scale, (height - y) / scale];
    const detailed = scale >= TEXT_SCALE, d = this.drawn;
    if (d && d.detailed === detailed && scale / d.scale < 2 && d.scale / scale < 2 && within(sight, d.area)) return;
    const mx = (sight[2] - sight[0]) * MARGIN, my = (sight[3] - sight[1]) * MARGIN;
    const area = [sight[0] - mx, sight[1] - my, sight[2] + mx, sight[3] + my];
    this.drawn = { area, scale, detailed };
    this.fillLayers(area, scale, detailed);
  }

  fillLayers(area, scale, detailed) {
    const focused = this.boxes.contains(document.activeElement) || this.grounds.contains(document.activeElement)
      ? document.activeElement.dataset.key : null;
    const grounds = [], boxes = [], lines = [];
    for (const box of this.scene.boxes) {
      if (!meets([box.x, box.y, box.x + box.width, box.y + box.height], area) || box.width * scale < 1.2) continue;
      (box.open ? grounds : boxes).push(drawBox(box, this, detailed));
    }
    for (const line of this.scene.lines) if (meets(line.box, area)) lines.push(drawLine(line, this));
    this.grounds.replaceChildren(...grounds);
    this.lines.replaceChildren(...lines);
    this.boxes.replaceChildren(...boxes);
    if (focused) [...this.world.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focused)?.focus({ preventScroll: true });
  }

  /** How many nodes below an item have each status. */
  tally(item) {
    if (!this.tallies.has(item)) {
      const counts = {};
      for (const node of item.nodes) { const s = this.status(node); if (s) counts[s] = (counts[s] ?? 0) + 1; }
      this.tallies.set(item, counts);
    }
    return this.tallies.get(item);
  }

  /** What stands on the right of a title: the measured time, and how many nodes below differ. */
  notes(item) {
    const tally = item.opens ? this.tally(item) : {}, time = item.ms === null ? [] : [["time", msText(item.ms)]];
    return [...time, ...Object.keys(SIGNS).filter((s) => tally[s]).map((s) => [`count c-${s}`, `${SIGNS[s]}${tally[s]}`])];
  }

  toggle(item) {
    if (this.open.has(item.key)) this.open.delete(item.key); else this.open.add(item.key);
    this.ontoggle(item.key);
  }

  listen() {
    let last = null, moved = 0;
    this.svg.addEventListener("pointerdown", (event) => { if (event.button === 0) { last = [event.clientX, event.clientY]; moved = 0; } });
    this.svg.addEventListener("pointermove", (event) => {
      if (!last || !(event.buttons & 1)) return;
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      if (moved > 4 && !this.svg.hasPointerCapture(event.pointerId)) this.svg.setPointerCapture(event.pointerId);
      last = [event.clientX, event.clientY];
      this.view.x += dx;
      this.view.y += dy;
      this.draw();
    });
    this.svg.addEventListener("pointerup", () => { last = null; });
    this.svg.addEventListener("click", (event) => { if (moved <= 4) this.click(event); });
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.svg.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), [event.clientX - box.left, event.clientY - box.top]);
    }, { passive: false });
    this.svg.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.click(event); } });
  }

  click(event) {
    const target = event.target.closest("[data-key]"), key = target?.dataset.key;
    const box = key === undefined ? null : this.scene.boxes.find((each) => boxKey(each) === key);
    if (!box) { if (event.type === "click") this.onselect(null, this); return; }
    if (box.end.port) { this.onselect({ port: box.end, graph: this.graph, parent: box.parent }, this); return; }
    this.onselect({ item: box.item, graph: this.graph }, this);
    const wantsToggle = event.target.closest(".toggle") || !box.item.node || (event.type === "keydown" && box.item.opens);
    if (box.item.opens && wantsToggle) this.toggle(box.item);
  }
}

const boxKey = (box) => (box.item ? box.item.key : `${box.parent.key} ${box.end.port} ${box.end.value}`);
const within = (a, b) => a[0] >= b[0] && a[1] >= b[1] && a[2] <= b[2] && a[3] <= b[3];
const meets = (a, b) => a[0] <= b[2] && a[2] >= b[0] && a[1] <= b[3] && a[3] >= b[1];

/** Opens groups from the outside until a screen is filled. */
function openSome(graph, open) {
  const queue = [graph.root];
  let boxes = graph.root.children.length;
  while (queue.length) {
    const groups = queue.shift().children.filter((child) => child.tree).sort((a, b) => a.children.length - b.children.length);
    for (const group of groups) {
      if (boxes + group.children.length > START_BOXES) continue;
      boxes += group.children.length;
      open.add(group.key);
      queue.push(group);
    }
  }
}

function arrowHead() {
  const path = svg("path", { d: "M0 0L7 3.5L0 7z" });
  return svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 7 7", refX: 6.4, refY: 3.5, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" }, path));
}

function drawLine(line, canvas) {
  const hot = [line.from, line.to].some((end) => end.item && end.item.key === canvas.selected);
  const end = line.back ? { "marker-start": "url(#arrow)" } : { "marker-end": "url(#arrow)" };
  return svg("path", { d: linePath(line.points), class: `line${hot ? " hot" : ""}${line.back ? " back" : ""}`, ...end });
}

/** The family of ops that gives a node its colour: of a fused kernel, that of its weightiest op. */
function familyOf(node) {
  const family = (each) => each.op.split(".")[0];
  if (!node.callee) return family(node);
  const inside = new Set(node.graph.func(node.callee).nodes.map(family));
  return ["nn", "reduce", "index", "ew", "view"].find((each) => inside.has(each)) ?? "call";
}

function drawBox(box, canvas, detailed) {
  const { item, width, height } = box, key = boxKey(box), at = { transform: `translate(${box.x.toFixed(1)} ${box.y.toFixed(1)})` };
  if (!item) return drawPort(box, key, at, detailed);
  const tally = canvas.tally(item), own = item.node ? canvas.status(item.node) : "";
  const marked = own || (Object.keys(tally).length ? "touched" : "");
  const family = item.node ? `node k-${familyOf(item.node)}` : "group";
  const classes = ["box", family, box.open ? `open depth-${box.depth % 2}` : "closed", item.key === canvas.selected ? "selected" : "", marked ? `s-${marked}` : ""];
  const label = `${item.node ? nodeTitle(item.node) : item.label}, ${item.node ? item.node.results[0] : plural(item.positions.length, "node")}`;
  const state = item.opens ? { "aria-expanded": String(box.open) } : {};
  const shape = svg("rect", { class: "body", width, height, rx: box.open ? 12 : 7 });
  const group = svg("g", { class: classes.join(" "), "data-key": key, tabindex: 0, role: "button", "aria-label": label, ...state, ...at });
  group.append(svg("title", {}, item.node ? `${nodeText(item.node)}\n${item.node.loc}` : item.label), shape);
  if (!box.open) group.append(svg("rect", { class: "stripe", width: 4, height: height - 12, x: 6, y: 6, rx: 2 }));
  if (detailed || box.open) group.append(...boxTexts(box, canvas.notes(item), detailed));
  return group;
}

function boxTexts(box, notes, detailed) {
  const { item, width } = box, [title, sub] = itemText(item);
  const texts = [svg("text", { class: "title", x: box.open ? 14 : 17, y: box.open ? 20 : 18 }, title)];
  if (!detailed) return texts;
  if (!box.open) texts.push(svg("text", { class: "sub", x: 17, y: 33 }, sub));
  if (notes.length) {
    const line = svg("text", { class: "notes", x: width - (item.opens ? 26 : 10), y: box.open ? 20 : 18, "text-anchor": "end" });
    notes.forEach(([kind, text], index) => line.append(svg("tspan", { class: kind, dx: index ? 6 : 0 }, text)));
    texts.push(line);
  }
  if (item.opens) {
    texts.push(svg("g", { class: "toggle", transform: `translate(${width - 14} ${box.open ? 15 : 14})` },
      svg("circle", { r: 8 }), svg("path", { d: box.open ? "M-4 0H4" : "M-4 0H4M0 -4V4" })));
  }
  return texts;
}

const SIGNS = { new: "+", gone: "−", changed: "~", moved: "↷" };

function drawPort(box, key, at, detailed) {
  const name = portText(box.end), kind = box.end.port;
  const group = svg("g", { class: `box port ${kind}`, "data-key": key, tabindex: 0, role: "button", "aria-label": `${kind === "in" ? "input" : "output"} ${box.end.value}`, ...at });
  group.append(svg("title", {}, box.end.value), svg("rect", { class: "body", width: box.width, height: box.height, rx: box.height / 2 }));
  if (detailed) group.append(svg("text", { class: "sub", x: box.width / 2, y: 15, "text-anchor": "middle" }, name));
  return group;
}
