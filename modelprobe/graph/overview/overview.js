"use strict";
// Folding, copying, and the icicle: each module as wide as its share, what is in it below.
(() => {
  const page = document.querySelector(".overview"), find = name => page.querySelector(name);
  const parts = Array.from(page.querySelectorAll(".part")), all = find(".all"), copy = find(".copy");
  all.onclick = () => {
    const open = !parts.some(part => part.open);
    parts.forEach(part => { part.open = open; });
    all.textContent = open ? "Fold all" : "Unfold all";
  };
  window.addEventListener("beforeprint", () => parts.forEach(part => { part.open = true; }));
  copy.onclick = async () => {
    const source = find(".markdown");
    try { await navigator.clipboard.writeText(source.value); }
    catch { // a page from disk may not use the clipboard's own way
      source.hidden = false; source.select(); document.execCommand("copy"); source.hidden = true;
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy as Markdown"; }, 1500);
  };

  const nodes = JSON.parse(find(".graph-data").textContent).nodes;
  const cells = find(".icicle .cells"), amount = find(".icicle select"), said = find(".icicle output");
  const kids = nodes.map(() => []);
  for (const node of nodes) if (node.parent >= 0) kids[node.parent].push(node.id);
  let top = 0;
  // A module that runs again has its parameters once
  const value = id => nodes[id].copies * (amount.value === "parameters" && nodes[id].remark.startsWith("call ") ? 0 : nodes[id][amount.value]);
  const exact = number => number.toLocaleString("en-US");
  function place(id, left, width, depth, hue, found) {
    if (width < 0.0015 || depth > 14) return;
    found.push([id, left, width, depth, hue]);
    const inside = kids[id].filter(kid => value(kid) > 0), sum = inside.reduce((all, kid) => all + value(kid), 0);
    // The rest is the module's own
    const whole = Math.max(sum, nodes[id][amount.value] || 0);
    let at = left;
    inside.forEach((kid, number) => {
      const share = width * value(kid) / whole;
      place(kid, at, share, depth + 1, depth ? hue : 360 * number / Math.max(1, inside.length), found);
      at += share;
    });
  }
  function draw() {
    const found = [], whole = nodes[0][amount.value];
    if (whole) place(top, 0, 1, 0, 210, found);
    cells.replaceChildren();
    let deepest = 0;
    for (const [id, left, width, depth, hue] of found) {
      const node = nodes[id], box = cells.appendChild(document.createElement("button"));
      const copies = node.copies > 1 ? " x" + node.copies : "";
      box.textContent = node.name + copies;
      box.title = (node.path || node.name) + copies + "  " + node.cls + "\n" + exact(value(id)) + " " +
        amount.selectedOptions[0].text + ", " + (100 * value(id) / whole).toFixed(1) + " % of the model";
      box.style.cssText = `left:${left * 100}%;width:calc(${width * 100}% - 1px);top:${depth * 26}px;` +
        `background:hsl(${hue} ${depth ? 55 : 15}% ${Math.min(84, 66 + 3 * depth)}%)`;
      box.onclick = () => { top = id === top ? Math.max(0, nodes[id].parent) : id; draw(); };
      deepest = Math.max(deepest, depth);
    }
    cells.style.height = (deepest + 1) * 26 + "px";
    said.textContent = !whole ? "none in this model" : (nodes[top].path || nodes[top].name) + ": " + exact(value(top)) + " " +
      amount.selectedOptions[0].text + ", " + (100 * value(top) / whole).toFixed(1) + " %";
  }
  amount.onchange = draw;
  find(".icicle .up").onclick = () => { top = 0; draw(); };
  draw();
})();
