// Layered layout of one group (Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system
// structures", 1981): layers by longest path, crossings reduced by barycenters, places by least squares.

const GAP_X = 22, GAP_Y = 30, BEND = 10, SWEEPS = 8;

/** Layers and the order within, for ends 0..count-1. role: "in", "out" or "" of each end.
 *  Values that one end sends to several others share their bends, like wires of a bus. */
function arrange(count, links, roles) {
  const order = [...Array(count).keys()].sort((a, b) => weightOf(roles[a]) - weightOf(roles[b]) || a - b);
  const rank = [];
  order.forEach((end, index) => { rank[end] = index; });
  const forward = links.map(([from, to]) => (rank[from] < rank[to] ? [from, to, false] : [to, from, true]));
  const layer = layersOf(count, forward, order);
  const plan = { layers: [], layer, up: [], down: [], routes: [], count };
  for (let end = 0; end < count; end++) addVertex(plan, layer[end]);
  route(plan, forward);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const downwards = sweep % 2 === 0;
    const rows = downwards ? plan.layers : [...plan.layers].reverse();
    for (const row of rows) sortRow(plan, row, downwards ? plan.up : plan.down);
  }
  return plan;
}

const weightOf = (role) => (role === "in" ? -1 : role === "out" ? 1 : 0);

function layersOf(count, forward, order) {
  const layer = new Array(count).fill(0), next = Array.from({ length: count }, () => []);
  const entered = new Array(count).fill(false);
  for (const [from, to] of forward) { next[from].push(to); entered[to] = true; }
  for (const end of order) for (const to of next[end]) layer[to] = Math.max(layer[to], layer[end] + 1);
  for (const end of order) {
    if (!entered[end] && next[end].length) layer[end] = Math.min(...next[end].map((to) => layer[to])) - 1;
  }
  return layer;
}

function addVertex(plan, layer) {
  const vertex = plan.up.length;
  plan.up.push([]);
  plan.down.push([]);
  plan.layer[vertex] = layer;
  (plan.layers[layer] ??= []).push(vertex);
  return vertex;
}

function route(plan, forward) {
  const buses = new Map(); // bends below each end, by layer
  const join = (a, b) => { if (!plan.down[a].includes(b)) { plan.down[a].push(b); plan.up[b].push(a); } };
  for (const [from, to, back] of forward) {
    const key = `${from} ${back}`;
    if (!buses.has(key)) buses.set(key, []);
    const bus = buses.get(key), path = [from];
    for (let layer = plan.layer[from] + 1; layer < plan.layer[to]; layer++) {
      bus[layer] ??= addVertex(plan, layer);
      path.push(bus[layer]);
    }
    path.push(to);
    for (let i = 1; i < path.length; i++) join(path[i - 1], path[i]);
    plan.routes.push({ path, back });
  }
}

function sortRow(plan, row, neighbours) {
  const place = new Map();
  for (const layer of plan.layers) layer.forEach((vertex, index) => place.set(vertex, (index + 0.5) / layer.length));
  const centre = new Map(row.map((vertex) => {
    const near = neighbours[vertex];
    return [vertex, near.length ? near.reduce((sum, other) => sum + place.get(other), 0) / near.length : place.get(vertex)];
  }));
  row.sort((a, b) => centre.get(a) - centre.get(b));
}

/** Places of all vertices for ends of these sizes: x, y of the upper left corners, tops and bottoms of layers, size. */
function position(plan, widths, heights) {
  const width = (vertex) => (vertex < plan.count ? widths[vertex] : BEND);
  const x = [], y = [], tops = [], bottoms = [];
  let bottom = 0;
  plan.layers.forEach((row, index) => {
    tops[index] = bottom;
    bottoms[index] = bottom + Math.max(...row.map((vertex) => (vertex < plan.count ? heights[vertex] : 0)));
    bottom = bottoms[index] + GAP_Y + Math.min(24, row.length * 2);
    let left = 0;
    for (const vertex of row) { x[vertex] = left + width(vertex) / 2; left += width(vertex) + GAP_X; y[vertex] = tops[index]; }
  });
  for (let round = 0; round < 6; round++) {
    for (const row of plan.layers) settle(row, plan.up, x, width, plan.count);
    for (const row of [...plan.layers].reverse()) settle(row, plan.down, x, width, plan.count);
  }
  const left = Math.min(...x.map((centre, vertex) => centre - width(vertex) / 2), Infinity);
  const right = Math.max(...x.map((centre, vertex) => centre + width(vertex) / 2), -Infinity);
  for (let vertex = 0; vertex < x.length; vertex++) x[vertex] -= left;
  return { x, y, tops, bottoms, width: Math.max(0, right - left), height: Math.max(0, bottoms[bottoms.length - 1] ?? 0) };
}

/** Centres as near to those of the neighbours as order and widths allow (pool adjacent violators). */
function settle(row, neighbours, x, width, count) {
  const pools = [];
  let offset = 0;
  row.forEach((vertex, index) => {
    if (index) offset += (width(row[index - 1]) + width(vertex)) / 2 + GAP_X;
    let weight = 0, sum = 0;
    for (const other of neighbours[vertex]) {
      const strength = vertex >= count && other >= count ? 8 : 1; // long edges run straight
      weight += strength;
      sum += strength * x[other];
    }
    if (!weight) { weight = 0.2; sum = 0.2 * x[vertex]; }
    pools.push({ weight, sum: sum - weight * offset, members: [[vertex, offset]] });
    while (pools.length > 1 && mean(pools[pools.length - 2]) > mean(pools[pools.length - 1])) {
      const last = pools.pop(), into = pools[pools.length - 1];
      into.weight += last.weight;
      into.sum += last.sum;
      into.members.push(...last.members);
    }
  });
  for (const pool of pools) for (const [vertex, shift] of pool.members) x[vertex] = mean(pool) + shift;
}

const mean = (pool) => pool.sum / pool.weight;
