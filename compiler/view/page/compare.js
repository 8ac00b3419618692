// Two passes side by side: which nodes are new, gone, changed or moved to another function, in the drawings and as text.

/** What a node says but for the place where it stands; weights and parameters of functions count as the same. */
const signature = (node) => node.op + node.args.map((arg) => arg.replace(/^@/, "%")).join() + node.attrs + node.types.join() + node.results.join() + node.callee;

/** Statuses of the nodes of two graphs: { before: Map node -> "gone" | "changed" | "moved", after: Map node -> ... }. */
function compareGraphs(before, after) {
  const result = { before: new Map(), after: new Map() }, names = new Map();
  const nodesOf = (graph) => graph.all.flatMap((func) => func.nodes);
  const place = (node) => `${node.func}\n${node.results[0]}`;
  const byPlace = new Map(nodesOf(before).map((node) => [place(node), node]));
  for (const node of byPlace.values()) if (!names.has(node.results[0])) names.set(node.results[0], []), names.get(node.results[0]).push(node);
    else names.get(node.results[0]).push(node);
  const matched = new Set();
  const rest = [];
  for (const node of nodesOf(after)) {
    const twin = byPlace.get(place(node));
    if (twin && (twin.number === node.number || signature(twin) === signature(node))) matched.add(twin); else rest.push(node);
  }
  for (const node of rest) {
    const free = (names.get(node.results[0]) ?? []).filter((each) => !matched.has(each));
    const twin = free.find((each) => signature(each) === signature(node)) ?? free.find((each) => each.op === node.op || each.func === node.func);
    if (twin) matched.add(twin);
    const status = !twin ? "new" : signature(twin) === signature(node) ? "moved" : "changed";
    result.after.set(node, status);
    if (twin) result.before.set(twin, status);
  }
  for (const node of byPlace.values()) if (!matched.has(node)) result.before.set(node, "gone");
  return result;
}

let panes = null; // of the shown comparison: { before, after } canvases

function showCompare(host) {
  const [from, to] = comparedStages();
  const result = compareGraphs(from.graph, to.graph);
  const pick = (label, stage, change) => el("label", {}, `${label} `, el("select", { "aria-label": label, onchange: (event) => change(Number(event.target.value)) },
    stages.filter((each) => each.graph).map((each) => el("option", { value: each.index, selected: each === stage }, stageTitle(each)))));
  const counts = Object.fromEntries(["gone", "new", "changed", "moved"].map((status) => [status, 0]));
  for (const status of result.after.values()) counts[status] += 1;
  counts.gone = [...result.before.values()].filter((status) => status === "gone").length;
  const same = to.graph.all.reduce((sum, func) => sum + func.nodes.length, 0) - result.after.size;
  const legend = Object.entries(counts).map(([status, count]) => el("span", { class: `chip c-${status}` }, `${SIGNS[status]} ${count} ${status}`));
  const bar = el("div", { class: "bar" }, pick("Before", from, (index) => go({ from: index })), pick("After", to, (index) => go({ pass: index })), legend, el("span", { class: "chip" }, `${same} the same`));
  const left = el("div", { class: "pane" }), right = el("div", { class: "pane" });
  const text = el("div", { class: "text-diff", tabindex: 0, "aria-label": "Differences as text" }, diffTable(from, to, result));
  host.replaceChildren(el("div", { class: "compare" }, bar, el("div", { class: "panes" }, left, right), text));
  panes = { before: makePane(left, from, result.before, `Before: ${stageTitle(from)}`), after: makePane(right, to, result.after, `After: ${stageTitle(to)}`) };
}

function makePane(host, stage, statuses, label) {
  const canvas = new Canvas(host, {
    graph: stage.graph, open: openKeys, status: (node) => statuses.get(node) ?? "", label,
    onselect: (chosen) => selectInPanes(chosen),
    ontoggle: (key) => { panes.before.refresh(key); panes.after.refresh(key); },
  });
  canvas.stage = stage;
  return canvas;
}

/** The same value in both drawings. */
function selectInPanes(chosen) {
  choose(chosen);
  for (const canvas of Object.values(panes)) {
    const twin = chosen?.item ? [...canvas.scene.byKey.values()].find((box) => box.item.key === chosen.item.key)?.item : null;
    const named = chosen?.item?.node ? canvas.graph.find(chosen.item.node.results[0]) : null;
    if (canvas.graph === chosen?.graph) canvas.select(chosen.item ?? null);
    else if (named) canvas.reveal(named);
    else canvas.select(twin);
  }
}

function revealInPanes(value) {
  for (const canvas of Object.values(panes)) {
    const node = canvas.graph.find(value);
    if (node) canvas.reveal(node);
  }
  const rows = [...document.querySelectorAll(".text-diff tr")];
  rows.forEach((row) => row.classList.toggle("marked", (row.dataset.values ?? "").split("\n").includes(value)));
  rows.find((row) => row.classList.contains("marked"))?.scrollIntoView({ block: "nearest" });
}

/** Rows [node before, node after] in order: common nodes keep both orders, what differs stands between them. */
function alignNodes(before, after) {
  const places = new Map(before.map((node, index) => [signature(node), index]));
  const common = longestRise(after.map((node, index) => [places.get(signature(node)) ?? -1, index]).filter(([left]) => left >= 0));
  const pairs = [];
  let left = 0, right = 0;
  for (const [i, j] of [...common, [before.length, after.length]]) {
    pairs.push(...pairGap(before.slice(left, i), after.slice(right, j)));
    if (i < before.length) pairs.push([before[i], after[j]]);
    left = i + 1;
    right = j + 1;
  }
  return pairs;
}

/** Of two stretches without a common node: those of one name stand side by side. */
function pairGap(before, after) {
  const pairs = [];
  let left = 0;
  for (const node of after) {
    const twin = before.findIndex((each, index) => index >= left && each.results[0] === node.results[0]);
    if (twin >= 0) {
      before.slice(left, twin).forEach((each) => pairs.push([each, null]));
      left = twin + 1;
    }
    pairs.push([twin >= 0 ? before[twin] : null, node]);
  }
  return [...pairs, ...before.slice(left).map((each) => [each, null])];
}

/** The longest subsequence whose first numbers rise (patience sorting). */
function longestRise(pairs) {
  const tops = [], links = [];
  pairs.forEach(([left], index) => {
    let low = 0, high = tops.length;
    while (low < high) { const middle = (low + high) >> 1; if (pairs[tops[middle]][0] < left) low = middle + 1; else high = middle; }
    links[index] = low ? tops[low - 1] : -1;
    tops[low] = index;
  });
  const chain = [];
  for (let at = tops.length ? tops[tops.length - 1] : -1; at >= 0; at = links[at]) chain.unshift(pairs[at]);
  return chain;
}

const CONTEXT = 2, MOST_ROWS = 2000;

function diffTable(from, to, result) {
  const body = [], names = [...new Set([...from.graph.funcs.keys(), ...to.graph.funcs.keys()])];
  const nodes = (graph, name) => (graph.funcs.has(name) ? graph.func(name).nodes : []);
  for (const name of names) {
    if (body.length > MOST_ROWS) break;
    const pairs = alignNodes(nodes(from.graph, name), nodes(to.graph, name));
    const differs = pairs.map(([a, b]) => !a || !b || result.before.has(a) || result.after.has(b));
    const near = pairs.map((_, index) => differs.slice(Math.max(0, index - CONTEXT), index + CONTEXT + 1).some(Boolean));
    if (!near.some(Boolean)) continue;
    body.push(el("tr", { class: "func" }, el("th", { colspan: 2, scope: "rowgroup" }, `@${name}`)));
    pairs.forEach((pair, index) => {
      if (near[index]) body.push(diffRow(pair, result));
      else if (near[index - 1]) body.push(el("tr", { class: "skip" }, el("td", { colspan: 2 }, "⋯")));
    });
  }
  if (!body.length) return el("p", { class: "hint" }, "No node differs.");
  if (body.length > MOST_ROWS) body.splice(MOST_ROWS, Infinity, el("tr", {}, el("td", { colspan: 2 }, "There is more; the drawings show all.")));
  return el("table", {}, body);
}

function diffRow([before, after], result) {
  const cell = (node, statuses) => {
    if (!node) return el("td", { class: "none" });
    const status = statuses.get(node) ?? "";
    return el("td", { class: status ? `c-${status}` : "", title: node.loc }, el("button", { type: "button", class: "line-link", onclick: () => go({ value: node.results[0], within: node.func }) }, nodeText(node)));
  };
  const values = [before, after].flatMap((node) => node?.results ?? []).join("\n");
  return el("tr", { "data-values": values }, cell(before, result.before), cell(after, result.after));
}
