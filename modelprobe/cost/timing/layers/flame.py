"""A flame graph of a forward pass by module path, as one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelprobe.cost.timing.layers.times import BETWEEN, Reconciled
from modelprobe.report.formats.html import esc
from modelprobe.report.units import Unit, labelled, seconds, share

NARROWEST_FRAME = 2e-4
"""Parts of the width below which a frame could not be seen, whatever is opened."""


@dataclass(slots=True)
class Frame:
    """A module, or an operator inside it: seconds with everything inside, and the frames in order."""

    name: str
    path: str
    detail: str
    is_operator: bool = False
    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    inside: dict[tuple[str, bool], Frame] = field(default_factory=dict)

    def child(self, name: str, path: str, detail: str, is_operator: bool) -> Frame:
        """The frame of that name inside it, made where there is none."""
        return self.inside.setdefault((name, is_operator), Frame(name, path, detail, is_operator))


def frames_of(times: Reconciled) -> Frame:
    """Times as modules called each other, with operators at the ends."""
    trace = times.trace
    root = Frame(str(trace.env.get("model", trace.tree.cls)), "", trace.tree.cls, calls=1)
    chains: list[list[Frame]] = []
    for call in trace.calls:
        above = chains[call.parent] if call.parent >= 0 else [root]
        own = root if not call.path else above[-1].child(call.path.rpartition(".")[2], call.path, call.cls, False)
        chains.append([root] if own is root else [*above, own])
    for piece in times.pieces:
        chain = chains[piece.call] if piece.call >= 0 else [root]
        if piece.name != BETWEEN:
            chain = [*chain, chain[-1].child(piece.name, chain[-1].path, piece.kind, True)]
        elif piece.call >= 0 and chain[-1] is not root:
            chain[-1].calls += 1
        for frame in chain:
            frame.seconds += piece.cost.seconds
            frame.flops += piece.cost.flops
        chain[-1].calls += piece.name != BETWEEN
    return root


def flame_page(times: Reconciled) -> str:
    """The page: a row for each depth, a click opens a frame. Without JavaScript every frame still tells what it is."""
    root = frames_of(times)
    digest = base64.b64encode(hashlib.sha256(FLAME_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    rows = list(_frame_rows(root, 0.0, 1.0, 0, root.seconds))
    depth = 1 + max((row[0] for row in rows), default=0)
    device = str(times.trace.env.get("device", ""))
    title = f"{root.name}: {seconds(root.seconds)} a pass{f' on {device}' if device else ''}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{FLAME_STYLE}</style></head><body><h1>{esc(title)}</h1>"
        "<p>Width is time. Modules are blue, operators orange; what is empty below a module is its own Python code. "
        "Click or press Enter to open a frame, Escape to go back.</p>"
        f'<div id="flame" style="height:{depth * 22}px">{"".join(row[1] for row in rows)}</div>'
        f'<p id="told" aria-live="polite">&nbsp;</p><script>{FLAME_SCRIPT}</script></body></html>\n'
    )


def _frame_rows(frame: Frame, left: float, width: float, depth: int, whole: float) -> Iterator[tuple[int, str]]:
    if width < NARROWEST_FRAME:
        return
    of_time = frame.seconds / whole if whole else 0.0
    place = f"{frame.path}: {frame.name}" if frame.is_operator and frame.path else frame.path or frame.name
    rate = f", {labelled(round(frame.flops / frame.seconds), Unit.FLOPS)}/s" if frame.flops and frame.seconds else ""
    detail = f" ({frame.detail})" if frame.detail else ""
    text = f"{place}{detail}: {seconds(frame.seconds)}, {share(of_time)}, called x{frame.calls}{rate}"
    yield (
        depth,
        (
            f'<div class="{"o" if frame.is_operator else "m"}" tabindex="0" title="{esc(text)}" data-l="{left:.6f}" '
            f'data-w="{width:.6f}" style="left:{left:.4%};width:{width:.4%};top:{depth * 22}px">{esc(frame.name)}</div>'
        ),
    )
    for child in frame.inside.values():
        part = width * child.seconds / frame.seconds if frame.seconds else 0.0
        yield from _frame_rows(child, left, part, depth + 1, whole)
        left += part


FLAME_STYLE = """
:root{color-scheme:light dark;font:14px/1.4 system-ui,sans-serif}body{margin:1rem}h1{font-size:1.1rem}
#flame{position:relative;overflow:hidden}
#flame div{position:absolute;height:20px;box-sizing:border-box;overflow:hidden;white-space:nowrap;padding:0 3px;
font-size:12px;line-height:20px;border-radius:2px;border-right:1px solid Canvas;cursor:pointer;color:#111}
.m{background:#9ec5ee}.o{background:#f4c48a}#flame div:hover,#flame div:focus{filter:brightness(.88);outline:0}
#flame .above{opacity:.55}#told{min-height:1.4em;font-variant-numeric:tabular-nums}
"""

FLAME_SCRIPT = """
const flame=document.getElementById('flame'),told=document.getElementById('told'),all=[...flame.children];
function open(l,w,top){for(const e of all){const a=+e.dataset.l,b=+e.dataset.w,t=parseInt(e.style.top);
const over=t<top&&a<=l+1e-6&&a+b>=l+w-1e-6,inside=t>=top&&a>=l-1e-6&&a+b<=l+w+1e-6;
e.style.display=over||inside?'':'none';e.classList.toggle('above',over);
e.style.left=over?'0':(a-l)/w*100+'%';e.style.width=over?'100%':b/w*100+'%';}}
function opened(e){open(+e.dataset.l,+e.dataset.w,parseInt(e.style.top));}
flame.addEventListener('click',e=>{if(e.target!==flame)opened(e.target);});
flame.addEventListener('keydown',e=>{if(e.key==='Enter'&&e.target!==flame)opened(e.target);});
addEventListener('keydown',e=>{if(e.key==='Escape')open(0,1,0);});
for(const kind of ['mouseover','focusin'])flame.addEventListener(kind,e=>{
if(e.target!==flame)told.textContent=e.target.title;});
"""
