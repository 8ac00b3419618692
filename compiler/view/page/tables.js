// The tables: weights, kernels in the order they run, and what did not fire or was refused and why.

/** A table whose columns sort on a click. columns: { name, number, get, show }; rows: anything; open: on a row. */
function sortableTable(label, columns, data, { sort = 0, down = true, open = null, mark = null } = {}) {
  const body = el("tbody"), head = el("tr");
  let shown = data;
  const draw = () => {
    const { get } = columns[sort], sign = down ? -1 : 1;
    const known = shown.filter((row) => get(row) !== null), unknown = shown.filter((row) => get(row) === null);
    known.sort((a, b) => { const [x, y] = [get(a), get(b)]; return sign * (typeof x === "string" ? x.localeCompare(y) : x - y); });
    const all = [...known, ...unknown], most = 1500;
    body.replaceChildren(...all.slice(0, most).map((row) => tableRow(row, columns, open, mark)));
    if (all.length > most) body.append(el("tr", {}, el("td", { colspan: columns.length }, `and ${all.length - most} more: narrow them down by the filter`)));
    [...head.children].forEach((cell, index) => cell.setAttribute("aria-sort", index === sort ? (down ? "descending" : "ascending") : "none"));
  };
  columns.forEach((column, index) => head.append(el("th", { scope: "col", class: column.number ? "number" : "" },
    el("button", { type: "button", onclick: () => { down = sort === index ? !down : Boolean(column.number); sort = index; draw(); } }, column.name))));
  const filter = el("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${label}`, oninput: (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    shown = data.filter((row) => { const text = columns.map((c) => String(c.get(row) ?? "")).join(" ").toLowerCase(); return words.every((word) => text.includes(word)); });
    draw();
  } });
  draw();
  return [el("div", { class: "bar" }, filter), el("div", { class: "scroll" }, el("table", { class: "data", "aria-label": label }, el("thead", {}, head), body))];
}

function tableRow(row, columns, open, mark) {
  const cells = columns.map((column, index) => {
    const content = column.show ? column.show(row) : String(column.get(row) ?? "");
    const inner = index === 0 && open ? el("button", { type: "button", class: "link", onclick: () => open(row) }, content) : content;
    return el("td", { class: column.number ? "number" : column.tight ? "tight" : "", title: typeof content === "string" ? content : null }, inner);
  });
  return el("tr", { class: mark?.(row) ? "marked" : "" }, cells);
}

const numberText = (value) => (value === null ? "" : Math.abs(value) >= 1000 || (value && Math.abs(value) < 0.001) ? value.toExponential(2) : String(Number(value.toPrecision(4))));
const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(value < 0.1 ? 2 : 1)} %`);

/** The first stage that has most known errors of weights; the last one where none has. */
function weightsStage() {
  const graphs = stages.filter((stage) => stage.graph), errors = (stage) => stage.weights.filter((n) => D.versions[n][8] !== null).length;
  return graphs.reduce((best, stage) => (errors(stage) > errors(best) ? stage : best), lastStage());
}

function showWeights(host) {
  const stage = stages[state.weightsOf ?? weightsStage().index];
  const data = stage.weights.map((number) => D.versions[number]), total = data.reduce((sum, row) => sum + row[3], 0);
  const largest = Math.max(...data.map((row) => row[3]), 1);
  const bar = (row) => [el("span", { class: "meter", "aria-hidden": "true" }, svgMeter(row[3] / largest)), bytesText(row[3])];
  const columns = [
    { name: "weight", get: (row) => row[0] }, { name: "type", tight: true, get: (row) => row[1] },
    { name: "encoding", tight: true, get: (row) => row[2], show: (row) => row[2] || "dense" },
    { name: "bytes", number: true, get: (row) => row[3], show: bar },
    { name: "bits each", number: true, get: (row) => (row[4] ? (8 * row[3]) / row[4] : null), show: (row) => (row[4] ? ((8 * row[3]) / row[4]).toFixed(2) : "") },
    { name: "error", number: true, get: (row) => row[8], show: (row) => percent(row[8]) },
    { name: "lowest", number: true, get: (row) => row[5], show: (row) => numberText(row[5]) },
    { name: "highest", number: true, get: (row) => row[6], show: (row) => numberText(row[6]) },
    { name: "zeros", number: true, get: (row) => row[7], show: (row) => percent(row[7]) },
  ];
  const pick = el("label", {}, "after ", el("select", { "aria-label": "Weights after pass", onchange: (event) => go({ weightsOf: Number(event.target.value) }) },
    stages.filter((each) => each.graph).map((each) => el("option", { value: each.index, selected: each === stage }, stageTitle(each)))));
  const [filter, table] = sortableTable("weights", columns, data, { sort: 3, open: (row) => openWeight(stage, row[0]), mark: (row) => row[0] === state.weight });
  filter.prepend(el("h2", {}, `${plural(data.length, "weight")}, ${bytesText(total)}`), pick);
  const hint = el("p", { class: "hint" }, D.versions.some((row) => row[5] !== null)
    ? "error: the norm of what the encoding changed, relative to the norm of the weight. Weights that a later pass merges have theirs before that pass."
    : "The range needs the data of the weights: view the folder of a dump.");
  host.replaceChildren(el("div", { class: "sheet" }, filter, table, hint));
  host.querySelector(".marked")?.scrollIntoView({ block: "center" });
}

const svgMeter = (share) => svg("svg", { width: 64, height: 8 }, svg("rect", { class: "track", width: 64, height: 8, rx: 2 }), svg("rect", { class: "fill", width: Math.max(1, 64 * share), height: 8, rx: 2 }));

/** The first node that uses a weight. */
function openWeight(stage, name) {
  const node = stage.graph.all.flatMap((func) => func.nodes).find((each) => each.args.includes(`@${name}`));
  if (node) go({ tab: "graph", pass: stage.index, value: node.results[0], within: node.func, weight: name });
}

function showKernels(host) {
  const total = D.runs.reduce((sum, run) => sum + (run[3] ?? 0), 0), most = Math.max(...D.runs.map((run) => run[3] ?? 0), 1e-9);
  const kernel = (row) => D.kernels[row.run[1]], graph = lastGraph();
  const data = D.runs.map((run, number) => ({ run, number, node: graph.find(run[0]) }));
  const columns = [
    { name: "value", get: (row) => row.run[0] }, { name: "step", number: true, get: (row) => row.number },
    { name: "ops", get: (row) => [...new Set(kernel(row).ops)].join(" + ") },
    { name: "kernel", tight: true, get: (row) => [...new Set(Object.values(kernel(row).kernels))].join(" "), show: (row) => [...new Set(Object.values(kernel(row).kernels))].map((name) => el("div", {}, el("code", {}, name))) },
    { name: "generic", get: (row) => (kernel(row).generic ? "generic" : ""), show: (row) => (kernel(row).generic ? el("span", { class: "badge" }, "generic") : "") },
    { name: "refused", number: true, get: (row) => new Set(kernel(row).rejected.map((each) => each[0])).size },
    { name: "result", number: true, get: (row) => row.node?.bytes[0] ?? null, show: (row) => bytesText(row.node?.bytes[0]) },
    { name: "time", number: true, get: (row) => row.run[3], show: (row) => (row.run[3] === null ? "" : [el("span", { class: "meter" }, svgMeter(row.run[3] / most)), msText(row.run[3])]) },
    { name: "share", number: true, get: (row) => row.run[3], show: (row) => (row.run[3] === null ? "" : percent(row.run[3] / total)) },
  ].filter((column) => total > 0 || !["time", "share"].includes(column.name));
  const [filter, table] = sortableTable("kernels", columns, data, { sort: total > 0 ? columns.length - 2 : 1, down: total > 0, open: (row) => go({ tab: "graph", pass: lastStage().index, value: row.run[0], within: "main" }) });
  const generic = data.filter((row) => kernel(row).generic).length;
  filter.prepend(el("h2", {}, `${plural(data.length, "step")} by ${plural(D.kernels.length, "kernel")}, ${generic} by a generic one`));
  const hint = D.bench ? `Measured: ${benchText()}.` : "Times of steps: nomul bench MODEL.so --json --steps > times.json, then nomul view … --bench times.json.";
  host.replaceChildren(el("div", { class: "sheet" }, filter, table, el("p", { class: "hint" }, hint)));
}

const lastStage = () => [...stages].reverse().find((stage) => stage.graph);
const lastGraph = () => lastStage().graph;

function showWhy(host) {
  const stageOf = (value) => [...stages].reverse().find((stage) => stage.graph?.find(value));
  const open = ([, root]) => { const stage = stageOf(root); if (stage) go({ tab: "graph", pass: stage.index, value: root }); };
  const columns = [
    { name: "at", get: (row) => row[1] }, { name: "rule", tight: true, get: (row) => row[0], show: (row) => el("b", {}, row[0]) }, { name: "why not", get: (row) => row[3] },
    { name: "matched", number: true, get: (row) => row[4], show: (row) => `${row[4]} %` }, { name: "source", get: (row) => row[2] },
  ];
  const [filter, table] = sortableTable("rules that nearly fired", columns, D.misses, { sort: 3, open });
  filter.prepend(el("h2", {}, `${plural(D.misses.length, "rule")} nearly fired`));
  const refused = D.refusals.length ? [el("h2", {}, `${plural(D.refusals.length, "kernel")} refused`), el("ul", { class: "refused lines" }, D.refusals.slice(0, 1000).map((line) => el("li", {}, line)))] : [];
  host.replaceChildren(el("div", { class: "sheet" }, filter, table, refused));
}
