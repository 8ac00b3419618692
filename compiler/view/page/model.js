// The data of the page as objects: stages (modules between passes), functions, nodes, and the folded tree of items.

let D = null; // the data, as compiler/view/tables.py makes it
let stages = []; // all passes; `graph` is null for those that changed nothing
const records = []; // nodes by number, made when asked for
const runOf = new Map(); // "%value" -> number of the step that computes it

async function loadData(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  D = JSON.parse(await new Response(stream).text());
  D.runs.forEach(([value], number) => runOf.set(value, number));
  stages = D.stages.map((row, index) => ({ ...row, index, graph: row.funcs ? new Graph(row) : null }));
}

function record(number) {
  if (!records[number]) {
    const S = D.strings, [op, args, attrs, results, types, loc, callee] = D.nodes[number];
    records[number] = {
      number, op: S[op], args: args.map((i) => S[i]), attrs: S[attrs], results: results.map((i) => S[i]),
      types: types.map((i) => S[i]), bytes: types.map((i) => D.bytes[i] ?? null), loc: S[loc], callee: S[callee],
    };
  }
  return records[number];
}

/** One module. nodes: { ...record, func, pos }; find(value): the node or parameter of that name, @main first. */
class Graph {
  constructor(row) {
    this.row = row;
    this.funcs = new Map(row.funcs.map((func) => [func.name, func]));
    this.ready = new Map();
  }
  get main() { return this.func("main"); }
  get all() { return this.row.funcs.map((func) => this.func(func.name)); }

  func(name) {
    if (!this.ready.has(name)) this.ready.set(name, this.makeFunc(this.funcs.get(name)));
    return this.ready.get(name);
  }

  makeFunc(row) {
    const func = { name: row.name, defs: new Map(), users: new Map(), tree: row.tree };
    func.params = row.params.map(([name, type]) => ({ name: D.strings[name], type: D.strings[type] }));
    func.returns = row.returns.map((name) => D.strings[name]);
    func.nodes = row.nodes.map((number, pos) => ({ ...record(number), func: row.name, pos, graph: this }));
    for (const param of func.params) func.defs.set(param.name, -1);
    for (const node of func.nodes) {
      for (const value of node.results) func.defs.set(value, node.pos);
      for (const value of new Set(node.args)) {
        if (!func.users.has(value)) func.users.set(value, []);
        func.users.get(value).push(node.pos);
      }
    }
    return func;
  }

  find(value, within) {
    const order = within ? [this.func(within), ...this.all] : this.all;
    for (const func of order) {
      const pos = func.defs.get(value);
      if (pos >= 0) return func.nodes[pos];
    }
    return null;
  }

  /** The node of @main that runs a private function, through functions in between. */
  caller(name) {
    for (const func of this.all) {
      const node = func.nodes.find((node) => node.callee === name);
      if (node) return node;
    }
    return null;
  }

  get root() {
    this.rootItem ??= new Item(this, null, "", { tree: this.main.tree, func: this.main });
    return this.rootItem;
  }
}

/** A box of the drawing: a node, a call that opens to its function, or a group of nodes with one module path. */
class Item {
  constructor(graph, parent, key, { tree = null, func, node = null }) {
    Object.assign(this, { graph, parent, key, tree, func, node });
    this.body = node?.callee ? graph.func(node.callee) : null; // whose nodes the children are, for a call
    this.label = tree ? tree[0] : "";
  }
  get opens() { return Boolean(this.tree || this.body); }

  get children() {
    if (!this.kids) {
      const func = this.body ?? this.func;
      const tree = this.body ? this.body.tree : this.tree ?? [""];
      const used = new Map();
      this.kids = tree.slice(1).map((child) => {
        const node = typeof child === "number" ? func.nodes[child] : null;
        const name = node ? node.results[0] : child[0];
        const count = (used.get(name) ?? 0) + 1;
        used.set(name, count);
        const key = `${this.key}/${name}${count > 1 ? `#${count}` : ""}`;
        return new Item(this.graph, this, key, node ? { func, node } : { func, tree: child });
      });
    }
    return this.kids;
  }

  /** Positions in `func` of the nodes below a group; of a node alone its own. */
  get positions() {
    this.places ??= this.node ? [this.node.pos] : this.children.flatMap((child) => child.positions);
    return this.places;
  }

  /** All nodes: of a group those below it, of a call itself and those of its function. */
  get nodes() {
    this.below ??= [...(this.node ? [this.node] : []), ...(this.opens ? this.children.flatMap((c) => c.nodes) : [])];
    return this.below;
  }

  /** Milliseconds that were measured, or null. */
  get ms() {
    const times = (this.node ? [this.node] : this.positions.map((pos) => this.func.nodes[pos])).map(timeOf);
    return times.some((ms) => ms !== null) ? times.reduce((sum, ms) => sum + (ms ?? 0), 0) : null;
  }

  /** What flows between the children: ends (children, then ports) and links [from, to] by index of ends. */
  get wiring() {
    this.wires ??= wire(this);
    return this.wires;
  }
}

function timeOf(node) {
  const run = node.func === "main" && runOf.has(node.results[0]) ? D.runs[runOf.get(node.results[0])] : null;
  return run ? run[3] : null;
}

function wire(item) {
  const func = item.body ?? item.func, ends = item.children.map((child) => ({ item: child }));
  const owner = new Map(), links = new Map(), ports = new Map();
  item.children.forEach((child, index) => child.positions.forEach((pos) => owner.set(pos, index)));
  const constants = new Set(item.body ? item.body.params.filter((_, i) => item.node.args[i]?.[0] === "@").map((p) => p.name) : []);
  const link = (from, to) => { if (from !== to) links.set(`${from} ${to}`, [from, to]); };
  const port = (kind, value) => {
    const key = kind + value;
    if (!ports.has(key)) ports.set(key, ends.push({ port: kind, value }) - 1);
    return ports.get(key);
  };
  for (const [pos, index] of owner) {
    const node = func.nodes[pos];
    for (const arg of node.args) {
      const def = func.defs.get(arg);
      if (def === undefined || constants.has(arg)) continue;
      link(owner.has(def) ? owner.get(def) : port("in", arg), index);
    }
    for (const value of node.results) {
      const leaves = func.returns.includes(value) || (func.users.get(value) ?? []).some((user) => !owner.has(user));
      if (leaves) link(index, port("out", value));
    }
  }
  return { ends, links: [...links.values()] };
}

/** The chain of items from the root down to the box of a node. */
function itemPath(graph, node) {
  const above = node.func === "main" ? [graph.root] : itemPath(graph, graph.caller(node.func));
  let item = above[above.length - 1];
  const chain = [...above];
  for (;;) {
    const next = item.children.find((child) => child.positions.includes(node.pos) && child.func.name === node.func);
    if (!next) return chain;
    chain.push(next);
    if (next.node) return chain;
    item = next;
  }
}
