// Making elements, and numbers as people read them. Text from a model goes into text nodes and attributes only.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) element.append(child);
  return element;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

function bytesText(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function msText(ms) {
  if (ms === null || ms === undefined) return "";
  return ms >= 100 ? `${Math.round(ms)} ms` : ms >= 1 ? `${ms.toFixed(1)} ms` : ms >= 0.1 ? `${ms.toFixed(2)} ms` : `${Math.round(ms * 1000)} µs`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** At most `length` characters; what goes is in the middle, for ends of paths tell most. */
function shorten(text, length) {
  if (text.length <= length) return text;
  const head = Math.floor((length - 1) / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (length - 1 - head))}`;
}

/** `linear + gelu`: what a node computes; for a call, what its function does. */
function nodeTitle(node) {
  if (!node.callee) return node.op;
  const ops = node.graph.func(node.callee).nodes.map((inner) => inner.op.replace(/^[a-z]+\./, ""));
  const parts = [...new Set(ops)];
  return parts.length > 3 ? `${parts.slice(0, 3).join(" + ")} + …` : parts.join(" + ");
}

/** The node as it stands in the text form. */
function nodeText(node) {
  const args = node.callee ? `@${node.callee}(${node.args.join(", ")})` : node.args.join(", ");
  return `${node.results.join(", ")} = ${node.op} ${args}${node.attrs ? ` {${node.attrs}}` : ""} : ${node.types.join(", ")}`;
}
