// From the tree of items and what is open to boxes and lines with absolute places; nothing is drawn here.

const CHAR = 7.25, SMALL = 0.92, NODE_HEIGHT = 42, PORT_HEIGHT = 22, HEAD = 30, PAD = 16, MOST_CHARS = 40;

/** What a box says: title, line below it. */
function itemText(item) {
  if (item.node) {
    const sub = item.node.types[0] + (item.node.types.length > 1 ? `, +${item.node.types.length - 1}` : "");
    return [shorten(nodeTitle(item.node), MOST_CHARS), shorten(sub, MOST_CHARS)];
  }
  const count = item.positions.length;
  return [shorten(item.label || "model", MOST_CHARS), plural(count, "node")];
}

const portText = (end) => shorten(end.value, 30);

function endSize(end, look) {
  if (end.port) return { width: portText(end).length * CHAR * SMALL + 18, height: PORT_HEIGHT };
  return itemSize(end.item, look);
}

/** look: { open: keys of open items, notes: (item) -> [class, text] of what stands on the right of its title }. */
function itemSize(item, look) {
  const [title, sub] = itemText(item), notes = look.notes(item);
  const right = notes.reduce((sum, [, text]) => sum + text.length * CHAR * SMALL + 7, 0) + (item.opens ? 22 : 0);
  const least = Math.max(title.length * CHAR + (right ? right + 8 : 0), sub.length * CHAR * SMALL) + 28;
  if (!look.open.has(item.key)) return { width: Math.max(76, least), height: NODE_HEIGHT };
  const inner = groupLayout(item, look);
  return { width: Math.max(least, inner.width + 2 * PAD), height: inner.height + HEAD + 2 * PAD, inner };
}

/** The layout within an open item. Order and layers are kept with the item, places are made anew. */
function groupLayout(item, look) {
  const { ends, links } = item.wiring;
  item.plan ??= arrange(ends.length, links, ends.map((end) => end.port ?? ""));
  const sizes = ends.map((end) => endSize(end, look));
  const places = position(item.plan, sizes.map((size) => size.width), sizes.map((size) => size.height));
  return { ...places, sizes };
}

/** boxes: { item | end, x, y, width, height, open, depth }; lines: { points, box of all points, from, to, back }. */
function makeScene(graph, look) {
  const scene = { boxes: [], lines: [], width: 0, height: 0, byKey: new Map() };
  const root = groupLayout(graph.root, look);
  placeInner(scene, graph.root, root, 0, 0, 0);
  scene.width = root.width;
  scene.height = root.height;
  return scene;
}

function placeInner(scene, item, inner, left, top, depth) {
  const { ends } = item.wiring, lines = [];
  for (const { path, back } of item.plan.routes) lines.push(lineOf(item.plan, inner, path, back, left, top, ends));
  scene.lines.push(...lines);
  ends.forEach((end, index) => {
    const { width, height, inner: below } = inner.sizes[index];
    const x = left + inner.x[index] - width / 2, y = top + inner.y[index];
    const isOpen = Boolean(below);
    const box = { end, item: end.item ?? null, parent: item, x, y, width, height, open: isOpen, depth };
    scene.boxes.push(box);
    if (end.item) scene.byKey.set(end.item.key, box);
    if (isOpen) {
      const indent = (width - below.width) / 2;
      placeInner(scene, end.item, below, x + indent, y + HEAD + PAD, depth + 1);
    }
  });
}

function lineOf(plan, inner, path, back, left, top, ends) {
  const points = [];
  path.forEach((vertex, index) => {
    const layer = plan.layer[vertex], x = left + inner.x[vertex];
    const height = vertex < plan.count ? inner.sizes[vertex].height : 0;
    if (index > 0) points.push([x, top + inner.tops[layer]]);
    if (index < path.length - 1) {
      if (index === 0) points.push([x, top + inner.y[vertex] + height]);
      if (index > 0 || inner.bottoms[layer] - inner.y[vertex] > height) points.push([x, top + inner.bottoms[layer]]);
    }
  });
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  return {
    points, back, from: ends[path[0]], to: ends[path[path.length - 1]],
    box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)],
  };
}

/** Straight down within a layer, a curve with upright ends between layers. */
function linePath(points) {
  let path = `M${points[0][0].toFixed(1)} ${points[0][1].toFixed(1)}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i], middle = (y0 + y1) / 2;
    path += Math.abs(x0 - x1) < 0.5 ? `L${x1.toFixed(1)} ${y1.toFixed(1)}`
      : `C${x0.toFixed(1)} ${middle.toFixed(1)} ${x1.toFixed(1)} ${middle.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
  }
  return path;
}
