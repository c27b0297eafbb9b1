"""A graph as a picture: SVG as text, PNG drawn by Pillow, from the same scene."""

from __future__ import annotations

from html import escape
from io import BytesIO
from itertools import pairwise

from modelprobe.graph.graph import FAILED_INSIDE, GraphNode
from modelprobe.graph.scene import GraphScene, PlacedBox, PlacedLine, detail_of, title_of

FILLS = {"module": "#ffffff", "operator": "#eef3fb", "input": "#e3f4e3", "output": "#fdf0dc", "failed": "#ffd9d6"}
EDGES = {"module": "#8592a6", "operator": "#9db2d3", "input": "#6fae6f", "output": "#d39c4a", "failed": "#d03a2f"}
OPENED = ("#f4f6f9", "#fafbfc")
LARGEST_SIDE = 12_000
"""Pixels; a larger picture is drawn smaller."""


def svg_of(scene: GraphScene) -> str:
    """The scene as one SVG, without scripts or links."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {scene.width + 16:.0f} {scene.height + 16:.0f}" '
        f'width="{scene.width + 16:.0f}" height="{scene.height + 16:.0f}" font-family="system-ui, sans-serif" '
        'font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#66748a"/></marker></defs>',
        f'<rect x="-8" y="-8" width="{scene.width + 16:.0f}" height="{scene.height + 16:.0f}" fill="#ffffff"/>',
    ]
    parts += [_svg_box(box) for box in scene.boxes]
    parts += [_svg_line(line) for line in scene.lines]
    return "\n".join((*parts, "</svg>\n"))


def _svg_box(box: PlacedBox) -> str:
    node = box.node
    fill = OPENED[0] if box.opened else FILLS[node.kind]
    rect = (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="5" '
        f'fill="{fill}" stroke="{_edge_of(node)}"/>'
    )
    tip = f"<title>{escape(f'{node.path} {node.cls} {node.arguments} {node.remark}'.strip())}</title>"
    middle = box.x + box.width / 2
    texts = f'<text x="{middle:.1f}" y="{box.y + 17:.1f}" text-anchor="middle">{escape(title_of(node))}</text>'
    if not box.opened:
        texts += (
            f'<text x="{middle:.1f}" y="{box.y + 32:.1f}" text-anchor="middle" font-size="10" fill="#5b6778">'
            f"{escape(detail_of(node))}</text>"
        )
    return f"<g>{tip}{rect}{texts}</g>"


def _edge_of(node: GraphNode) -> str:
    return EDGES["failed" if node.remark.startswith(FAILED_INSIDE) else node.kind]


def _svg_line(line: PlacedLine) -> str:
    points = line.points
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    if len(points) == 2:
        path += f"L{points[1][0]:.1f} {points[1][1]:.1f}"
    else:  # through the bends, rounded
        for one, other in pairwise(points[1:]):
            last = other is points[-1]
            to = other if last else ((one[0] + other[0]) / 2, (one[1] + other[1]) / 2)
            path += f"Q{one[0]:.1f} {one[1]:.1f} {to[0]:.1f} {to[1]:.1f}"
    dash = ' stroke-dasharray="5 4"' if line.repeats else ""
    x, y = _middle(points)
    return (
        f'<path d="{path}" fill="none" stroke="#66748a" marker-end="url(#tip)"{dash}/>'
        f'<text x="{x + 4:.1f}" y="{y + 3:.1f}" font-size="9" fill="#7b8798">{escape(line.text)}</text>'
    )


def _middle(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    one, other = points[(len(points) - 1) // 2], points[(len(points) - 1) // 2 + 1]
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def png_of(scene: GraphScene) -> bytes:
    """The scene as a PNG, at twice its size where that is at most `LARGEST_SIDE` pixels."""
    from PIL import Image, ImageDraw, ImageFont

    scale = min(2.0, LARGEST_SIDE / max(scene.width + 16, scene.height + 16))
    image = Image.new(
        "RGB", (max(1, int((scene.width + 16) * scale)), max(1, int((scene.height + 16) * scale))), "white"
    )
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(12 * scale), ImageFont.load_default(10 * scale)

    def at(x: float, y: float) -> tuple[float, float]:
        return ((x + 8) * scale, (y + 8) * scale)

    for box in scene.boxes:
        corners = (*at(box.x, box.y), *at(box.x + box.width, box.y + box.height))
        fill = OPENED[0] if box.opened else FILLS[box.node.kind]
        draw.rounded_rectangle(corners, 5 * scale, fill, _edge_of(box.node), max(1, round(scale)))
        middle = box.x + box.width / 2
        draw.text(at(middle, box.y + 13), title_of(box.node), "#111111", large, anchor="mm")
        if not box.opened:
            draw.text(at(middle, box.y + 28), detail_of(box.node), "#5b6778", small, anchor="mm")
    for line in scene.lines:
        draw.line([at(*point) for point in line.points], "#66748a", max(1, round(scale)), joint="curve")
        draw.polygon([at(*point) for point in _tip(line.points)], "#66748a")
        x, y = _middle(line.points)
        draw.text(at(x + 4, y), line.text, "#7b8798", small, anchor="lm")
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _tip(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    (x0, y0), (x, y) = points[-2:]
    length = max(1e-6, ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5)
    dx, dy = 6 * (x - x0) / length, 6 * (y - y0) / length
    return [(x, y), (x - dx - dy / 2, y - dy + dx / 2), (x - dx + dy / 2, y - dy - dx / 2)]
