// What is shown, the address that says it, the list of passes, and the keys.

const TABS = [["graph", "Graph", showGraph], ["compare", "Compare", showCompare], ["why", "Why not", showWhy], ["kernels", "Kernels", showKernels], ["weights", "Weights", showWeights], ["memory", "Memory", showMemory]];
const state = { tab: "graph", pass: 0, from: null, value: null, within: null, weight: null, weightsOf: null };
const openKeys = new Set();
let canvas = null; // of the graph tab

const shownStage = () => stages[state.pass];
const stageTitle = (stage) => `${String(stage.number).padStart(2, "0")} ${stage.name}`;

/** The two stages of the comparison: by default the one before the shown one. */
function comparedStages() {
  const graphs = stages.filter((stage) => stage.graph), to = shownStage();
  const before = graphs[Math.max(0, graphs.indexOf(to) - 1)];
  return [stages[state.from ?? before.index], to];
}

function tabExists(name) {
  const graphs = stages.filter((stage) => stage.graph).length;
  return { graph: true, compare: graphs > 1, why: D.misses.length + D.refusals.length > 0, kernels: D.runs.length > 0, weights: D.versions.length > 0, memory: D.memory !== null }[name];
}

/** Show something else. change: fields of the state. */
function go(change) {
  if (!("value" in change)) Object.assign(change, "pass" in change || "tab" in change ? {} : { value: null, within: null });
  else if (!("within" in change)) change.within = null;
  Object.assign(state, change);
  const address = addressOf();
  if (address !== location.hash.slice(1)) history.pushState(null, "", `#${address}`);
  render();
}

function addressOf() {
  const parts = { tab: state.tab, pass: shownStage().number + "." + shownStage().name, node: state.value ?? "", in: state.within && state.within !== "main" ? state.within : "", from: state.tab === "compare" ? comparedStages()[0].number : "", weight: state.tab === "weights" ? state.weight ?? "" : "" };
  return Object.entries(parts).filter(([, text]) => text !== "").map(([name, text]) => `${name}=${encodeURIComponent(text)}`).join("&");
}

function readAddress() {
  const given = new Map(location.hash.slice(1).split("&").map((part) => { const [name, ...rest] = part.split("="); return [name, decodeSafely(rest.join("="))]; }));
  const graphs = stages.filter((stage) => stage.graph), number = (text) => Number.parseInt(text ?? "", 10);
  const stage = graphs.find((each) => `${each.number}.${each.name}` === given.get("pass")) ?? graphs.find((each) => each.number === number(given.get("pass"))) ?? graphs[graphs.length - 1];
  const from = graphs.find((each) => each.number === number(given.get("from")));
  const tab = TABS.some(([name]) => name === given.get("tab")) && tabExists(given.get("tab")) ? given.get("tab") : "graph";
  const within = stage.graph.funcs.has(given.get("in")) ? given.get("in") : null;
  Object.assign(state, { tab, pass: stage.index, from: from?.index ?? null, value: given.get("node") || null, within, weight: given.get("weight") || null });
}

function decodeSafely(text) {
  try { return decodeURIComponent(text); } catch { return ""; }
}

let shown = ""; // what the main part shows: it is made anew only where that changes

function render() {
  for (const tab of byId("tabs").children) { const on = tab.dataset.tab === state.tab; tab.setAttribute("aria-selected", String(on)); tab.tabIndex = on ? 0 : -1; }
  drawPasses();
  const key = [state.tab, state.pass, state.tab === "compare" ? comparedStages()[0].index : "", state.tab === "weights" ? [state.weight, state.weightsOf] : ""].join();
  if (key !== shown) {
    canvas = panes = null;
    document.querySelector("main").classList.toggle("wide", !["graph", "compare"].includes(state.tab));
    TABS.find(([name]) => name === state.tab)[2](byId("view"));
    shown = key;
  }
  showValue();
}

/** Brings the chosen value into sight, or shows that none is chosen. */
function showValue() {
  if (!state.value) {
    canvas?.select(null);
    showDetails(null);
    return;
  }
  if (panes) revealInPanes(state.value);
  const graph = shownStage().graph, node = graph.find(state.value, state.within);
  if (!node) return;
  if (canvas) canvas.reveal(node);
  const chain = itemPath(graph, node);
  showDetails({ item: chain[chain.length - 1], graph });
}

function showGraph(host) {
  host.replaceChildren();
  canvas = new Canvas(host, {
    graph: shownStage().graph, open: openKeys, label: `Graph after ${stageTitle(shownStage())}`,
    onselect: (chosen, drawing) => { drawing.select(chosen?.item ?? null); choose(chosen); },
    ontoggle: (key) => canvas.refresh(key),
  });
}

/** A click in a drawing: the address and the details follow, the drawing stays where it is. */
function choose(chosen) {
  state.value = chosen?.item?.node?.results[0] ?? null;
  state.within = chosen?.item?.node?.func ?? null;
  history.replaceState(null, "", `#${addressOf()}`);
  showDetails(chosen);
}

function drawPasses() {
  const host = byId("passes"), most = Math.max(...stages.map((stage) => stage.ms ?? 0), 1), list = el("ol", { class: "timeline" });
  let phase = null, idle = [];
  const flush = () => { if (idle.length) list.append(el("li", { class: "idle", title: idle.map((s) => `${stageTitle(s)}  ${msText(s.ms)}`).join("\n") }, `${plural(idle.length, "pass")} without change`.replace("passs", "passes"))); idle = []; };
  for (const stage of stages) {
    if (stage.phase && stage.phase !== phase) { flush(); phase = stage.phase; list.append(el("li", { class: "phase" }, phase)); }
    if (!stage.graph) { idle.push(stage); continue; }
    flush();
    list.append(el("li", {}, passButton(stage, most)));
  }
  flush();
  const total = stages.reduce((sum, stage) => sum + (stage.ms ?? 0), 0);
  host.replaceChildren(el("h2", {}, stages.length > 1 ? "Passes" : "Module"), stages.length > 1 ? el("p", { class: "hint" }, `${stages.length - 1} passes, ${msText(total)}`) : "", list);
  host.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function passButton(stage, most) {
  const graphs = stages.filter((each) => each.graph), before = graphs[graphs.indexOf(stage) - 1];
  const count = (each) => each.graph.all.reduce((sum, func) => sum + func.nodes.length, 0), delta = before ? count(stage) - count(before) : 0;
  const share = stage.ms === undefined ? 0 : Math.sqrt(stage.ms / most);
  return el("button", { type: "button", class: "pass", "aria-current": stage.index === state.pass ? "true" : null, title: [stageTitle(stage), msText(stage.ms), stage.fired].filter(Boolean).join("\n"), onclick: () => go({ pass: stage.index, from: null }) },
    el("span", { class: "number" }, String(stage.number)), el("span", { class: "label" }, stage.name),
    el("span", { class: "delta" }, delta ? (delta > 0 ? `+${delta}` : `−${-delta}`) : ""), el("span", { class: "ms" }, msText(stage.ms)),
    svg("svg", { class: "time-bar", "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 3" }, svg("rect", { width: 100 * share, height: 3 })));
}

function stepPass(by) {
  const graphs = stages.filter((stage) => stage.graph), next = graphs[graphs.indexOf(shownStage()) + by];
  if (next) go({ pass: next.index, from: null });
}

const KEYS = {
  "/": () => byId("query").focus(), "[": () => stepPass(-1), "]": () => stepPass(1),
  f: (drawings) => drawings.forEach((each) => each.fit()), e: (drawings) => drawings[0]?.unfold(true), c: (drawings) => drawings[0]?.unfold(false),
  "+": (drawings) => drawings.forEach((each) => each.zoom(1.3)), "=": (drawings) => drawings.forEach((each) => each.zoom(1.3)), "-": (drawings) => drawings.forEach((each) => each.zoom(1 / 1.3)),
};

function setUpKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act(canvas ? [canvas] : panes ? Object.values(panes) : []);
  });
}

function setUpTabs() {
  const host = byId("tabs"), names = TABS.filter(([name]) => tabExists(name));
  host.append(...names.map(([name, title]) => el("button", { type: "button", role: "tab", "data-tab": name, onclick: () => go({ tab: name }) }, title)));
  host.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = (names.findIndex(([name]) => name === state.tab) + by + names.length) % names.length;
    go({ tab: names[next][0] });
    host.children[next].focus();
  });
}

async function start() {
  await loadData(byId("data").textContent);
  byId("name").textContent = D.name;
  byId("about").textContent = [{ dump: "dump of a compile", artifact: "artifact", nir: "module" }[D.kind], D.origin, D.target].filter(Boolean).join(" · ");
  setUpTabs();
  setUpSearch();
  setUpKeys();
  readAddress();
  openSome(shownStage().graph, openKeys);
  window.addEventListener("popstate", () => { readAddress(); render(); });
  render();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => { byId("view").replaceChildren(el("p", { class: "fault" }, `This page could not be read: ${error.message}`)); throw error; });
