// The panel on the right: all that is known of a node, a group or a value, with links to its neighbours.

const section = (title, ...content) => el("section", {}, el("h3", {}, title), ...content);
const rows = (pairs) => el("dl", {}, pairs.filter(([, value]) => value !== "" && value !== null).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

/** A value's name as a link to the node that computes it. */
function valueLink(graph, value, within) {
  const node = value[0] === "%" ? graph.find(value, within) : null;
  if (!node) return el("code", {}, value);
  return el("button", { type: "button", class: "link", title: nodeText(node), onclick: () => go({ value, within: node.func }) }, value);
}

function showDetails(chosen) {
  const host = byId("details");
  if (!chosen) return host.replaceChildren(overview());
  if (chosen.port) return host.replaceChildren(portDetails(chosen));
  const { item, graph } = chosen;
  host.replaceChildren(item.node ? nodeDetails(item.node, graph) : groupDetails(item, graph));
}

function overview() {
  const graph = shownStage().graph, nodes = graph.all.flatMap((func) => func.nodes);
  const ranges = Object.entries(D.ranges).map(([name, [low, high]]) => `${name} in [${low}, ${high ?? "any"}]`);
  const sizes = Object.entries(D.dims).map(([name, size]) => `${name}=${size}`).join(" ");
  return el("div", {}, el("h2", {}, stageTitle(shownStage())),
    rows([["nodes", String(nodes.length)], ["functions", String(graph.all.length)], ["weights", String(shownStage().weights.length)],
      ["sizes", ranges.join(", ")], ["bytes at", sizes], ["measured", D.bench ? benchText() : ""]]),
    passDetails(shownStage()), opTable(nodes),
    el("p", { class: "hint" }, "Click a box to open it; drag to move, turn the wheel to zoom. Keys: / search, [ ] passes, f all, e unfold, c fold."));
}

const benchText = () => `${msText(D.bench.p50_ms)} a run, ${plural(D.bench.threads, "thread")}, ` + Object.entries(D.bench.dims).map(([name, size]) => `${name}=${size}`).join(" ");

function passDetails(stage) {
  if (stage.ms === undefined) return null;
  const fired = stage.fired ? stage.fired.split(", ").map((text) => el("li", {}, text)) : [];
  return section(`Pass ${stage.name}`, rows([["phase", stage.phase], ["time", msText(stage.ms)], ["nodes after", String(stage.count)]]),
    fired.length ? el("ul", { class: "fired", "aria-label": "Rules fired" }, fired) : null,
    stage.notes.map((note) => el("p", { class: "hint" }, note)));
}

function opTable(nodes) {
  const counts = new Map();
  for (const node of nodes) if (!node.callee) counts.set(node.op, (counts.get(node.op) ?? 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 14);
  return section("Ops", el("table", { class: "plain" }, sorted.map(([op, count]) =>
    el("tr", {}, el("td", { class: "number" }, String(count)), el("td", {}, el("code", { title: D.ops[op] }, op))))));
}

function groupDetails(item, graph) {
  const nodes = item.positions.map((pos) => item.func.nodes[pos]);
  return el("div", {}, el("h2", {}, item.label || "model"), rows([["nodes", String(nodes.length)], ["measured", msText(item.ms)]]), opTable(item.nodes));
}

function portDetails({ port, graph, parent }) {
  const func = parent.body ?? parent.func, param = func.params.find((each) => each.name === port.value);
  const users = (func.users.get(port.value) ?? []).map((pos) => func.nodes[pos]);
  return el("div", {}, el("h2", {}, port.value),
    rows([["is", param ? "an input" : port.port === "in" ? "computed outside" : "used outside"], ["type", param?.type ?? ""]]),
    param ? null : section("Computed by", valueLink(graph, port.value, func.name)), userList(graph, users));
}

const userList = (graph, users) => users.length
  ? section("Used by", el("ul", { class: "links" }, users.map((user) => el("li", {}, valueLink(graph, user.results[0], user.func), " ", el("small", {}, user.op))))) : null;

function nodeDetails(node, graph) {
  const func = graph.func(node.func);
  const users = [...new Set(node.results.flatMap((value) => func.users.get(value) ?? []))].map((pos) => func.nodes[pos]);
  const results = node.results.map((value, i) => el("li", {}, el("code", {}, value), el("small", {}, ` ${node.types[i]} · ${bytesText(node.bytes[i])}`)));
  return el("div", {}, el("h2", {}, nodeTitle(node)), el("p", { class: "doc" }, D.ops[node.op] ?? ""),
    rows([["source", node.loc], ["function", node.func === "main" ? "" : `@${node.func}`], ["calls", node.callee ? `@${node.callee}` : ""], ["attributes", node.attrs], ["measured", measuredText(node)]]),
    section("Results", el("ul", { class: "links" }, results)),
    node.args.length ? section("Arguments", el("ul", { class: "links" }, node.args.map((arg) => el("li", {}, argument(graph, node, arg))))) : null,
    userList(graph, users), kernelDetails(node, graph), missDetails(node), passesOf(node),
    section("Text", el("pre", {}, nodeText(node))));
}

function argument(graph, node, arg) {
  if (arg[0] === "@") {
    const row = weightRow(arg.slice(1));
    return [el("button", { type: "button", class: "link", onclick: () => go({ tab: "weights", weight: arg.slice(1) }) }, arg), el("small", {}, row ? ` ${row[1]} ${row[2]} · ${bytesText(row[3])}` : "")];
  }
  const def = graph.find(arg, node.func), param = graph.func(node.func).params.find((each) => each.name === arg);
  return [valueLink(graph, arg, node.func), el("small", {}, ` ${param?.type ?? (def ? def.types[def.results.indexOf(arg)] : "")}`)];
}

const weightRow = (name) => shownStage().weights.map((number) => D.versions[number]).find((row) => row[0] === name) ?? null;

function measuredText(node) {
  const ms = timeOf(node), total = D.runs.reduce((sum, run) => sum + (run[3] ?? 0), 0);
  return ms === null ? "" : `${msText(ms)}, ${((100 * ms) / total).toFixed(1)} % of all steps`;
}

/** The number of the run that computes a node: by its value, or by the group that the node went into. */
function runNumber(node, graph) {
  for (const value of node.results) if (runOf.has(value)) return runOf.get(value);
  const last = [...stages].reverse().find((stage) => stage.graph && stage.graph.all.length > 1)?.graph;
  for (const each of [graph, last]) {
    const inner = each ? each.find(node.results[0]) : null;
    const caller = inner && inner.func !== "main" ? each.caller(inner.func) : null;
    if (caller && runOf.has(caller.results[0])) return runOf.get(caller.results[0]);
  }
  return null;
}

function kernelDetails(node, graph) {
  const number = runNumber(node, graph);
  if (number === null) return null;
  const [value, index, slots] = D.runs[number], kernel = D.kernels[index];
  const names = [...new Set(Object.values(kernel.kernels))];
  return section("Kernel", el("p", {}, names.map((name) => [el("code", {}, name), " "]), kernel.generic ? el("span", { class: "badge" }, "generic") : null),
    rows([["step", `${number} of ${D.runs.length}`], ["computes", value], ["ops", kernel.ops.join(", ")],
      ["place", slots.map((slot) => (slot < 0 ? "an output" : `slot ${slot} of the arena`)).join(", ")]]),
    rejectedList(kernel));
}

/** Each refused kernel once for each reason, with the instruction-set levels that have it. */
function rejectedList(kernel) {
  if (!kernel.rejected.length) return el("p", { class: "hint" }, "No kernel of higher rank was refused.");
  const reasons = new Map();
  for (const [name, text] of kernel.rejected) {
    const level = D.levels.find((each) => text.startsWith(`${each}: `)), reason = level ? text.slice(level.length + 2) : text;
    const key = `${name}\n${reason}`;
    reasons.set(key, [...(reasons.get(key) ?? []), ...(level ? [level] : [])]);
  }
  const rows = [...reasons].map(([key, levels]) => [...key.split("\n"), levels.join(", ")]);
  return el("ul", { class: "refused", "aria-label": "Refused kernels" }, rows.map(([name, reason, levels]) =>
    el("li", {}, el("code", {}, name), ` ${reason} `, el("small", {}, levels))));
}

function missDetails(node) {
  const found = D.misses.filter(([, root, loc]) => node.results.includes(root) || (loc && loc === node.loc));
  if (!found.length) return null;
  return section("Rules that nearly fired", el("ul", { class: "refused" }, found.map(([rule, root, , reason, matched]) =>
    el("li", {}, el("b", {}, rule), ` ${reason} `, el("small", {}, `at ${root}, ${matched} % matched`)))));
}

/** Which passes made or changed the node of this name. */
function passesOf(node) {
  const value = node.results[0], steps = [];
  let last = null;
  for (const stage of stages.filter((each) => each.graph)) {
    const now = stage.graph.find(value), text = now ? signature(now) : null;
    if (text !== last) steps.push([stage, now === null ? "gone" : last === null ? "appears" : "changed"]);
    last = text;
  }
  if (stages.length < 2) return null;
  return section("History", el("ul", { class: "links" }, steps.map(([stage, what]) => el("li", {},
    el("button", { type: "button", class: "link", onclick: () => go({ pass: stage.index, value }) }, stageTitle(stage)), el("small", {}, ` ${what}`)))));
}
