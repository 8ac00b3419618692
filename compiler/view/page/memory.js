// The arena over the steps of a run: a row for each slot, a bar for each value that lies in it.

function showMemory(host) {
  const { slots, spans, steps } = D.memory, total = slots.reduce((sum, bytes) => sum + bytes, 0);
  const live = Array.from({ length: steps }, (_, step) => spans.reduce((sum, [, first, last, bytes]) => sum + (first <= step && step <= last ? bytes : 0), 0));
  const peak = Math.max(...live, 0), unshared = spans.reduce((sum, span) => sum + span[3], 0);
  const sizes = Object.entries(D.dims).map(([name, size]) => `${name}=${size}`).join(" ");
  const text = `Arena of ${bytesText(total)} in ${plural(slots.length, "slot")}; ${bytesText(peak)} live at most; ${bytesText(unshared)} without sharing`;
  host.replaceChildren(el("div", { class: "sheet" }, el("div", { class: "bar" }, el("h2", {}, text), sizes ? el("span", { class: "chip" }, `at ${sizes}`) : null),
    el("div", { class: "scroll memory" }, memoryDrawing(slots, spans, steps, live, peak, host.clientWidth)),
    el("p", { class: "hint" }, "Across: steps of a run. Down: slots, as high as their bytes. Click a bar for the value. A bar is as high as the value fills its slot.")));
}

const LEFT = 84, LIVE = 70, AXIS = 22;

function memoryDrawing(slots, spans, steps, live, peak, room) {
  const total = slots.reduce((sum, bytes) => sum + bytes, 0);
  const step = Math.max(4, Math.min(48, (room - LEFT - 40) / Math.max(1, steps))), height = Math.max(320, slots.length * 26);
  const heights = slots.map((bytes) => 20 + ((height - 20 * slots.length) * bytes) / (total || 1)), tops = [];
  let y = LIVE + AXIS;
  for (const each of heights) { tops.push(y); y += each + 3; }
  const width = LEFT + steps * step + 12;
  const drawing = svg("svg", { class: "arena", width, height: y + 4, role: "group", "aria-label": "Memory map" });
  drawing.append(svg("path", { class: "live", d: livePath(live, peak, step) }), svg("text", { class: "sub", x: 4, y: 14 }, "live bytes"), svg("text", { class: "sub", x: 4, y: 28 }, bytesText(peak)));
  for (let tick = 0; tick < steps; tick += Math.ceil(50 / step)) drawing.append(svg("text", { class: "sub", x: LEFT + tick * step, y: LIVE + AXIS - 6 }, String(tick)));
  slots.forEach((bytes, slot) => drawing.append(svg("rect", { class: "slot", x: LEFT, y: tops[slot], width: steps * step, height: heights[slot], rx: 3 }),
    svg("text", { class: "sub", x: 4, y: tops[slot] + 14 }, `${slot}: ${bytesText(bytes)}`)));
  for (const [slot, first, last, bytes, values] of spans) {
    const tall = Math.max(5, (heights[slot] * bytes) / (slots[slot] || 1)), open = () => go({ tab: "graph", pass: lastStage().index, value: values[0], within: "main" });
    const label = `${values.join(", ")}: ${bytesText(bytes)}, steps ${first} to ${last}`, wide = (last - first + 1) * step - 1;
    const bar = svg("g", { class: `span hue-${(first * 5 + slot) % 6}`, tabindex: 0, role: "button", "aria-label": label, onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } },
      svg("title", {}, label), svg("rect", { x: LEFT + first * step, y: tops[slot] + heights[slot] - tall, width: wide, height: tall, rx: 3 }));
    if (wide > 60 && tall > 13) bar.append(svg("text", { class: "sub", x: LEFT + first * step + 5, y: tops[slot] + heights[slot] - tall + 13 }, shorten(values[0], Math.floor((wide - 8) / 6.9))));
    drawing.append(bar);
  }
  return drawing;
}

function livePath(live, peak, step) {
  let path = `M${LEFT} ${LIVE}`;
  live.forEach((bytes, index) => { const y = (LIVE - ((LIVE - 12) * bytes) / (peak || 1)).toFixed(1); path += `L${LEFT + index * step} ${y}L${LEFT + (index + 1) * step} ${y}`; });
  return `${path}L${LEFT + live.length * step} ${LIVE}Z`;
}
