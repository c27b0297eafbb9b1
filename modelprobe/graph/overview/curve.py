"""The curve of memory over a run as one small SVG, whose colours follow the page's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from modelprobe.cost.memory.estimate import PARTS, Moment
from modelprobe.report.units import size

WIDTH, TALL, MOST_STEPS = 1000, 220, 500
HUES = (215, 185, 145, 95, 45, 20, 330, 275)


def memory_curve(line: Sequence[Moment]) -> str:
    """Bytes alive over the run, its parts on top of each other; empty without moments."""
    moments = _fewer_moments([moment.parts for moment in line])
    peak = max(map(sum, moments), default=0)
    if not peak:
        return ""
    shown = [at for at in range(len(PARTS)) if any(parts[at] for parts in moments)]
    step, below = WIDTH / len(moments), [0.0] * len(moments)
    areas, words = [], []
    for number, at in enumerate(shown):
        above = [low + parts[at] for low, parts in zip(below, moments, strict=True)]
        corners = [
            f"{_curve_point(i * step, value, peak)} {_curve_point((i + 1) * step, value, peak)}"
            for i, value in enumerate(above)
        ]
        back = [
            f"{_curve_point((i + 1) * step, value, peak)} {_curve_point(i * step, value, peak)}"
            for i, value in enumerate(below)
        ]
        name, colour = PARTS[at].replace("_", " "), f"hsl({HUES[number % len(HUES)]} 60% 55%)"
        largest = max(parts[at] for parts in moments)
        areas.append(
            f'<polygon points="{" ".join((*corners, *back[::-1]))}" fill="{colour}">'
            f"<title>{escape(name)}, at most {size(largest)}</title></polygon>"
        )
        words.append(f'<span><i style="background:{colour}"></i>{escape(name)} {size(largest)}</span>')
        below = above
    return (
        f'<figure class="memory-curve"><svg viewBox="0 0 {WIDTH} {TALL}" preserveAspectRatio="none" role="img" '
        f'aria-label="memory over the run, peak {size(peak)}">{"".join(areas)}</svg>'
        f"<figcaption>Bytes alive over the run, peak {size(peak)}. {' '.join(words)}</figcaption></figure>"
    )


def _curve_point(x: float, value: float, peak: float) -> str:
    return f"{x:.1f},{TALL * (1 - value / peak):.1f}"


def _fewer_moments(moments: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The moment with the largest sum of each of at most `MOST_STEPS` equal stretches."""
    each = -(-len(moments) // MOST_STEPS) or 1
    return [max(moments[at : at + each], key=sum) for at in range(0, len(moments), each)]
