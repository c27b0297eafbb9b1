"use strict";
// Draws the graphs of the page. Names come from models: they are only ever set as text.
(() => {
const viewers = [];
function viewer(host, chosen) {
  const data = JSON.parse(host.querySelector(".graph-data").textContent);
  const HEIGHT = 40, LETTER = 6.6, PAD = 16, HEAD = 24, ROW_GAP = 34, GAP = 22, UNIT = 150, DOT = 6;
  const nodes = data.nodes, levels = data.levels, across = data.across, byId = id => nodes[id];
  const find = name => host.querySelector(name);
  const svg = find("svg"), canvas = find(".canvas"), panel = find("aside"), found = find(".found"), search = find("input");
  const NS = "http://www.w3.org/2000/svg";
  const opened = new Set(data.opened);
  let picked = 0, overlay = find("select").value, view = { x: 0, y: 0, k: 1 }, sizes = new Map(), centres = new Map(), boxes = new Map();
  const plane = svg.appendChild(document.createElementNS(NS, "g"));

  const number = value => {
    if (value < 1000) return String(Math.round(value * 10) / 10);
    const step = Math.min(5, Math.floor(Math.log10(value) / 3));
    return (value / 1000 ** step).toPrecision(4).replace(/\.?0+$/, "") + " " + " kMGTP"[step];
  };
  const exact = value => value.toLocaleString("en-US");
  const title = node => node.name + (node.kind === "module" && node.cls !== node.name ? " " + node.cls : "") +
    (node.copies > 1 ? " x" + node.copies : "");
  const detail = node => node.kind === "failed" ? "given " + node.inputs.join(", ") :
    node.outputs.slice(0, 2).join(", ") + (node.outputs.length > 2 ? ", …" : "") + (node.macs ? "  " + number(node.macs) + " MACs" : "");
  const turned = pair => across ? [pair[1], pair[0]] : pair;

  // Sizes and places, as scene.py has them
  function size(id) {
    if (id < 0) return [DOT, DOT];
    if (sizes.has(id)) return sizes.get(id);
    const node = byId(id);
    let got = [Math.max(70, Math.max(title(node).length, detail(node).length * 0.85) * LETTER + 18), HEIGHT];
    if (opened.has(id) && levels[id]) {
      const inner = place(id);
      got = [Math.max(got[0], inner[0] + 2 * PAD), inner[1] + HEAD + PAD];
    }
    sizes.set(id, got);
    return got;
  }
  function place(id) {
    const at = new Map();
    let along = 0;
    for (const row of levels[id].rows) {
      const all = row.map(([item]) => turned(size(item))), xs = [];
      let shift = 0, tall = 0;
      row.forEach(([, want], i) => {
        const least = i ? xs[i - 1] + (all[i - 1][0] + all[i][0]) / 2 + GAP : -Infinity;
        xs.push(Math.max(want * UNIT, least));
        shift += want * UNIT - xs[i];
        tall = Math.max(tall, all[i][1]);
      });
      row.forEach(([item], i) => at.set(item, [xs[i] + shift / row.length, along + tall / 2]));
      along += tall + ROW_GAP;
    }
    let low = Infinity, high = -Infinity;
    for (const [item, [x]] of at) {
      const wide = turned(size(item))[0] / 2;
      low = Math.min(low, x - wide); high = Math.max(high, x + wide);
    }
    const moved = new Map();
    for (const [item, [x, y]] of at) moved.set(item, turned([x - low, y]));
    centres.set(id, moved);
    return turned([high - low, along - ROW_GAP]);
  }

  function make(name, parent, attributes, text) {
    const element = document.createElementNS(NS, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }
  function draw(id, left, top, into) {
    const [width, height] = size(id), node = byId(id), open = opened.has(id) && levels[id];
    const rect = make("rect", into, { x: left, y: top, width, height, class: node.kind + (open ? " opened" : "") + (node.remark.startsWith("did not end") ? " broken" : "") });
    rect.dataset.id = id;
    boxes.set(id, { rect, left, top, width, height });
    make("text", into, { x: left + width / 2, y: top + 17 }, title(node));
    if (!open) { make("text", into, { x: left + width / 2, y: top + 32, class: "detail" }, detail(node)); return; }
    const here = centres.get(id);
    let right = 0;
    for (const [item, [x]] of here) right = Math.max(right, x + size(item)[0] / 2);
    const x0 = left + PAD + Math.max(0, width - 2 * PAD - right) / 2, y0 = top + HEAD;
    for (const [item, [x, y]] of here) if (item >= 0) draw(item, x0 + x - size(item)[0] / 2, y0 + y - size(item)[1] / 2, into);
    for (const [items, shapes, repeats] of levels[id].lines) drawLine(items, shapes, repeats, here, x0, y0, into);
  }
  function drawLine(items, shapes, repeats, here, x0, y0, into) {
    const last = items.length - 1;
    const points = items.map((item, i) => {
      const [x, y] = here.get(item), [w, h] = size(item), side = i === 0 ? 1 : i === last ? -1 : 0;
      return [x0 + x + (across ? side * w / 2 : 0), y0 + y + (across ? 0 : side * h / 2)];
    });
    let path = "M" + points[0];
    if (last === 1) path += "L" + points[1];
    for (let i = 1; i < last; i++) {
      const a = points[i], b = points[i + 1];
      path += "Q" + a + " " + (i + 1 === last ? b : [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]);
    }
    make("path", into, { d: path, class: "line" + (repeats ? " repeats" : ""), "marker-end": "url(#tip)" });
    const at = (items.length - 1) >> 1, a = points[at], b = points[at + 1];
    make("text", into, { x: (a[0] + b[0]) / 2 + 4, y: (a[1] + b[1]) / 2 + 3, class: "shape" },
      shapes[0] + (shapes.length > 1 ? " +" + (shapes.length - 1) : ""));
  }
  function render() {
    size(0);
    boxes = new Map();
    const fresh = document.createElementNS(NS, "g");
    draw(0, 0, 0, fresh);
    plane.replaceChildren(fresh);
    paint(); pick(picked, false); move();
  }
  function move() { plane.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`); }
  function fit() {
    const [width, height] = size(0), room = canvas.getBoundingClientRect();
    const k = Math.min(1.2, (room.width - 20) / width, (room.height - 20) / height);
    view.k = Math.max(k, Math.min(0.55, (room.width - 20) / width), 0.02);
    view.x = Math.max(10, (room.width - width * view.k) / 2); view.y = 10;
    move();
  }
  function zoom(by, x, y) {
    const k = Math.min(8, Math.max(0.01, view.k * by));
    view.x = x - (x - view.x) * k / view.k; view.y = y - (y - view.y) * k / view.k; view.k = k;
    move();
  }
  function zoomMiddle(by) { const room = canvas.getBoundingClientRect(); zoom(by, room.width / 2, room.height / 2); }

  const OVERLAYS = { macs: n => n.macs, parameters: n => n.parameters, bytes: n => n.bytes_moved, activations: n => n.activation_bytes,
    intensity: n => n.bytes_moved ? (2 * n.macs + n.flops) / n.bytes_moved : 0 };
  for (const given of data.overlays) OVERLAYS[given.key] = node => given.values[node.id];
  const logarithmic = new Set(data.overlays.filter(given => given.logarithmic).map(given => given.key));
  function paint() {
    const value = OVERLAYS[overlay], values = new Map();
    let most = 0, least = Infinity;
    for (const id of value ? boxes.keys() : []) {
      const amount = opened.has(id) && levels[id] ? null : value(byId(id));
      if (amount === null || amount === undefined) continue;
      values.set(id, amount);
      most = Math.max(most, amount);
      if (amount > 0) least = Math.min(least, amount);
    }
    const share = amount => amount <= 0 ? 0 : !logarithmic.has(overlay) ? Math.sqrt(amount / most) :
      most > least ? 0.15 + 0.85 * Math.log(amount / least) / Math.log(most / least) : 1;
    for (const [id, { rect }] of boxes) {
      rect.style.fill = values.has(id) && most ?
        `color-mix(in srgb, var(--hot) ${Math.round(95 * share(values.get(id)))}%, var(--module))` : "";
    }
  }

  function forget(id) { for (let at = id; at >= 0; at = byId(at).parent) { sizes.delete(at); centres.delete(at); } }
  function toggle(id) {
    if (!levels[id] || id === 0) return;
    const before = boxes.get(id);
    opened.has(id) ? opened.delete(id) : opened.add(id);
    forget(id); render();
    const after = boxes.get(id);
    if (before && after) { // the corner stays where it was
      view.x += (before.left - after.left) * view.k; view.y += (before.top - after.top) * view.k; move();
    }
  }
  function pick(id, show = true) {
    const old = boxes.get(picked);
    if (old) old.rect.classList.remove("picked");
    picked = id;
    const now = boxes.get(id);
    if (now && id) now.rect.classList.add("picked");
    if (show) { describe(byId(id)); chosen(id, data.pairs); }
  }
  function alone() { // what is chosen in the other graph is not in this one
    const old = boxes.get(picked);
    if (old) old.rect.classList.remove("picked");
    panel.replaceChildren();
    panel.appendChild(document.createElement("p")).textContent = "Not in this model.";
  }
  function describe(node) {
    panel.replaceChildren();
    const head = panel.appendChild(document.createElement("h2"));
    head.textContent = title(node);
    const list = panel.appendChild(document.createElement("dl"));
    const add = (label, value) => {
      if (value === "" || value === undefined || value === 0) return;
      list.appendChild(document.createElement("dt")).textContent = label;
      list.appendChild(document.createElement("dd")).textContent = value;
    };
    const each = node.copies > 1 ? " each" : "";
    add("Path", node.path); add("Class", node.cls); add("Arguments", node.arguments);
    add("Inputs", node.inputs.join(", ")); add("Outputs", node.outputs.join(", "));
    if (node.parameters) add("Parameters", exact(node.parameters) + each);
    if (node.macs) add("MACs", exact(node.macs) + each);
    if (node.flops) add("Other FLOPs", exact(node.flops) + each);
    if (node.bytes_moved) add("Bytes moved", exact(node.bytes_moved) + each);
    if (node.activation_bytes) add("Activations", exact(node.activation_bytes) + " bytes" + each);
    if (node.bytes_moved) add("Intensity", number((2 * node.macs + node.flops) / node.bytes_moved) + " FLOPs per byte");
    if (node.kind === "module") add("Operators", exact(node.operators));
    for (const given of data.overlays) add(given.title[0].toUpperCase() + given.title.slice(1), given.texts[node.id]);
    add("Defined in", node.source); add("Remark", node.remark);
    if (levels[node.id] && node.id) {
      const button = panel.appendChild(document.createElement("button"));
      button.textContent = opened.has(node.id) ? "Close" : "Open";
      button.onclick = () => { toggle(node.id); describe(node); };
    }
  }
  function reveal(id, tell = true) {
    let changed = false;
    for (let at = byId(id).parent; at > 0; at = byId(at).parent) if (!opened.has(at)) { opened.add(at); forget(at); changed = true; }
    if (changed) render();
    pick(id, tell);
    if (!tell) describe(byId(id));
    const box = boxes.get(id), room = canvas.getBoundingClientRect();
    if (!box) return;
    view.k = Math.max(view.k, 0.8);
    view.x = room.width / 2 - (box.left + box.width / 2) * view.k; view.y = room.height / 2 - (box.top + box.height / 2) * view.k;
    move();
  }
  const haystack = nodes.map(node => (node.path + " " + node.name + " " + node.cls).toLowerCase());
  function look() {
    const words = search.value.toLowerCase().trim();
    found.replaceChildren();
    if (!words) return [];
    const hits = [];
    for (let id = 0; id < haystack.length && hits.length < 40; id++) if (haystack[id].includes(words)) hits.push(id);
    for (const id of hits) {
      const line = found.appendChild(document.createElement("li")), node = byId(id);
      line.textContent = (node.path || node.name) + "  " + node.cls;
      line.onclick = () => { reveal(id); found.replaceChildren(); };
    }
    return hits;
  }

  search.oninput = look;
  search.onkeydown = event => {
    if (event.key === "Enter") { const hits = look(); if (hits.length) { reveal(hits[0]); found.replaceChildren(); } }
    if (event.key === "Escape") { search.value = ""; look(); search.blur(); }
    event.stopPropagation();
  };
  find("select").onchange = event => { overlay = event.target.value; paint(); };
  find(".fit").onclick = fit;
  find(".close").onclick = () => { opened.clear(); opened.add(0); sizes = new Map(); centres = new Map(); render(); fit(); };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const room = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - room.left, event.clientY - room.top);
  }, { passive: false });
  const pointers = new Map();
  let moved = 0;
  svg.addEventListener("pointerdown", event => { pointers.set(event.pointerId, event); moved = 0; });
  window.addEventListener("pointermove", event => {
    const was = pointers.get(event.pointerId);
    if (!was) return;
    if (pointers.size === 1) { view.x += event.clientX - was.clientX; view.y += event.clientY - was.clientY; move(); }
    else {
      const other = [...pointers.values()].find(one => one.pointerId !== event.pointerId), room = canvas.getBoundingClientRect();
      const far = one => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      zoom(far(event) / far(was), other.clientX - room.left, other.clientY - room.top);
    }
    moved += Math.abs(event.clientX - was.clientX) + Math.abs(event.clientY - was.clientY);
    pointers.set(event.pointerId, event);
  });
  const letGo = event => pointers.delete(event.pointerId);
  window.addEventListener("pointerup", letGo); window.addEventListener("pointercancel", letGo);
  svg.addEventListener("click", event => {
    const id = event.target.dataset && event.target.dataset.id;
    if (moved > 6 || id === undefined) return;
    pick(+id);
  });
  svg.addEventListener("dblclick", event => { const id = event.target.dataset && event.target.dataset.id; if (id) toggle(+id); });
  const step = by => { const shown = [...boxes.keys()].sort((a, b) => a - b), at = shown.indexOf(picked); reveal(shown[Math.min(shown.length - 1, Math.max(0, at + by))]); };
  const KEYS = { "/": () => search.focus(), "+": () => zoomMiddle(1.25), "=": () => zoomMiddle(1.25), "-": () => zoomMiddle(0.8), "0": fit,
    Enter: () => { toggle(picked); describe(byId(picked)); }, j: () => step(1), k: () => step(-1),
    ArrowLeft: () => { view.x += 60; move(); }, ArrowRight: () => { view.x -= 60; move(); },
    ArrowUp: () => { view.y += 60; move(); }, ArrowDown: () => { view.y -= 60; move(); } };
  canvas.addEventListener("keydown", event => {
    const act = KEYS[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { act(); event.preventDefault(); }
  });
  const broken = nodes.find(node => node.kind === "failed");
  render(); fit();
  if (broken) reveal(broken.id); else describe(byId(0));
  host.dataset.ready = "yes";
  return { reveal, alone };
}
const hosts = Array.from(document.querySelectorAll(".graph"));
hosts.forEach((host, at) => viewers.push(viewer(host, (id, pairs) => {
  const other = pairs && viewers[1 - at];
  if (!other) return;
  if (pairs[id] === undefined) other.alone(); else other.reveal(pairs[id], false);
})));
})();
