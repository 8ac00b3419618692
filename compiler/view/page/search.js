// The search field: values, source layers, ops and weights of the shown pass; arrow keys and Enter go there.

const MOST_HITS = 60;

/** Nodes whose words contain all of the query's, best first, and weights. */
function findHits(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean), graph = shownStage().graph, hits = [];
  if (!words.length) return hits;
  for (const func of graph.all) {
    for (const node of func.nodes) {
      const names = node.results.join(" ").toLowerCase(), all = `${names} ${node.loc} ${node.op}`.toLowerCase();
      if (!words.every((word) => all.includes(word))) continue;
      const exact = names === `%${words[0]}` || names === words[0] ? 0 : words.every((word) => names.includes(word)) ? 1 : 2;
      hits.push({ rank: exact + (func.name === "main" ? 0 : 0.5), title: node.results[0], note: `${nodeTitle(node)} · ${node.loc}`, change: { tab: state.tab === "compare" ? "compare" : "graph", value: node.results[0], within: func.name } });
    }
  }
  for (const number of shownStage().weights) {
    const name = D.versions[number][0];
    if (words.every((word) => `@${name}`.toLowerCase().includes(word))) hits.push({ rank: 3, title: `@${name}`, note: D.versions[number][1], change: { tab: "weights", weight: name, weightsOf: shownStage().index } });
  }
  return hits.sort((a, b) => a.rank - b.rank);
}

function setUpSearch() {
  const input = byId("query"), list = byId("hits");
  let hits = [], at = 0;
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const take = (index) => { if (hits[index]) { close(); input.blur(); go(hits[index].change); } };
  const mark = () => {
    [...list.children].forEach((row, index) => row.setAttribute("aria-selected", String(index === at)));
    list.children[at]?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", `hit-${at}`);
  };
  const update = () => {
    const found = findHits(input.value);
    hits = found.slice(0, MOST_HITS);
    at = 0;
    list.replaceChildren(...hits.map((hit, index) => el("li", { id: `hit-${index}`, role: "option", onpointerdown: (event) => { event.preventDefault(); take(index); } }, el("code", {}, hit.title), el("small", {}, hit.note))));
    if (found.length > hits.length) list.append(el("li", { class: "more" }, `and ${found.length - hits.length} more`));
    if (!hits.length && input.value.trim()) list.append(el("li", { class: "more" }, "nothing found in this pass"));
    list.hidden = !list.children.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark();
  };
  input.addEventListener("input", update);
  input.addEventListener("focus", () => { if (input.value) update(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { input.value = ""; close(); input.blur(); }
    else if (event.key === "Enter") take(at);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); at = Math.max(0, Math.min(hits.length - 1, at + (event.key === "ArrowDown" ? 1 : -1))); mark(); }
  });
}
