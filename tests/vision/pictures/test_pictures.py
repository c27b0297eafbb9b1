"""Grids, heat maps, overlays and strips: colors mean what the bar says, sizes agree, nothing falls over odd values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.vision.pictures.canvas import fitted_text, number, png, shortened, side_by_side, width_of
from modelprobe.vision.pictures.colour import MISSING, ColourLimits, colour_map, coloured, scale_of, to_unit
from modelprobe.vision.pictures.curves import _label_points
from modelprobe.vision.pictures.grids import channel_grid
from modelprobe.vision.pictures.heat import heat_map, with_bar
from modelprobe.vision.pictures.overlay import overlay
from modelprobe.vision.pictures.strips import bar_strip

ODD = [
    np.zeros((3, 3)),
    np.full((2, 5), np.nan),
    np.array([[np.inf, -np.inf, np.nan, 1.0]]),
    np.array([[1e300, -1e300]]),
    np.array([[5e-324, 0.0]]),
    np.array([[7]], dtype=np.int64),
    np.arange(6, dtype=np.float16).reshape(1, 6),
]


@pytest.mark.parametrize("line", [False, True])
def test_labels_of_near_points_lie_apart_and_inside(line: bool) -> None:
    places = [(1.0, 1.0), (1.02, 1.01), (1.04, 1.0), (1.0, 1.03), (3.0, 3.0)]
    axes = Figure(figsize=(6, 4)).add_subplot()
    axes.plot(*zip(*places, strict=True), "o-")
    _label_points(axes, [(f"features.{n}.block.1.0", at) for n, at in enumerate(places)], line)
    frame, boxes = axes.get_window_extent(), [Text.get_window_extent(text) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)


def test_colours_are_those_of_the_map() -> None:
    values = np.array([[0.0, 1.0], [0.5, 2.0]])
    picture = np.asarray(coloured(values, "viridis", ColourLimits(0.0, 1.0)))
    table = colour_map("viridis")
    assert tuple(picture[0, 0]) == tuple(table[0]) == (68, 1, 84)
    assert tuple(picture[0, 1]) == tuple(table[255]) == (253, 231, 36)
    assert tuple(picture[1, 0]) == tuple(table[128])
    assert tuple(picture[1, 1]) == tuple(table[255])  # beyond the limits: the end of the map


def test_what_is_not_finite_has_a_colour_of_its_own() -> None:
    picture = np.asarray(coloured(np.array([[np.nan, 1.0, np.inf, 2.0]])))
    assert [tuple(pixel) == MISSING for pixel in picture[0]] == [True, False, True, False]


def test_unknown_colour_map() -> None:
    with pytest.raises(BadInput, match="there is no color map 'jett'") as raised:
        colour_map("jett")
    assert "did you mean jet" in raised.value.hint


@pytest.mark.parametrize("values", ODD, ids=range(len(ODD)))
def test_odd_values(values: np.ndarray) -> None:
    unit = to_unit(values)
    assert ((unit >= 0) & (unit <= 1) | ~np.isfinite(values)).all()
    photo = Image.new("RGB", (30, 20))
    assert heat_map(values, "t").size == heat_map(np.ones((9, 4)), "another").size
    assert overlay(photo, values).size == (30, 20)
    assert bar_strip(values.reshape(-1), "t").size[0] > 700
    assert channel_grid([values, values], ["0", "1"], "t").size[0] > 300


def test_all_heat_maps_and_overlays_have_one_size() -> None:
    shapes = [(7, 7), (56, 56), (14, 21), (300, 1), (1, 1000), (1, 1)]
    maps = {heat_map(np.random.default_rng(0).normal(size=shape), "title " * 40).size for shape in shapes}
    framed = with_bar(Image.new("RGB", (500, 100)), "t", limits=ColourLimits(0, 1)).size
    assert maps == {framed}


def test_squares_are_values_not_smoothed() -> None:
    picture = np.asarray(heat_map(np.array([[0.0, 1.0], [1.0, 0.0]]), "t"))
    inside = picture[60:500, 20:455].reshape(-1, 3)
    ends = {tuple(colour_map()[0]), tuple(colour_map()[255])}
    assert {tuple(pixel) for pixel in inside[:: 7 * 13]} <= ends


def test_an_overlay_keeps_the_colors_of_the_photograph_where_the_map_is_low() -> None:
    photo = Image.new("RGB", (40, 20), (10, 200, 60))
    laid = np.asarray(overlay(photo, np.array([[0.0, 0.0, 0.0, 1.0]]), cmap="jet"))
    assert np.array_equal(laid[:, :10], np.asarray(photo)[:, :10])
    red, green, _ = laid[10, -1].astype(int)
    assert red > green + 20  # the upper end of jet
    around = np.asarray(overlay(photo, np.array([[-1.0, 0.0, 1.0]]), cmap="RdBu_r", centered=True))
    assert np.abs(around[10, 20].astype(int) - [10, 200, 60]).max() < 40  # 0 lies in the middle
    assert around[10, 0, 2] > around[10, 0, 0]
    assert around[10, -1, 0] > around[10, -1, 2]


def test_values_of_both_signs_are_drawn_around_zero() -> None:
    assert scale_of(np.array([-1.0, 3.0, np.nan]), "auto") == ("RdBu_r", ColourLimits(-3.0, 3.0))
    assert scale_of(np.array([0.0, 3.0]), "auto") == ("viridis", ColourLimits(0.0, 3.0))
    assert scale_of(np.array([-1.0, 3.0]), "jet") == ("jet", ColourLimits(-1.0, 3.0))
    white = np.asarray(coloured(np.zeros((1, 1)), *scale_of(np.array([-1.0, 3.0]), "auto")))
    assert white.min() > 240


@pytest.mark.zoo
def test_grids_hold_what_they_are_given() -> None:
    maps = [np.full((4, 4), float(i)) for i in range(10)]
    sheet = channel_grid(maps, [str(i) for i in range(10)], "t", limits=ColourLimits(0.0, 9.0))
    colours = {tuple(pixel) for pixel in np.asarray(sheet).reshape(-1, 3)[::5]}
    table = colour_map()
    assert all(
        tuple(int(v) for v in table[round(i / 9 * 255)]) in {tuple(map(int, c)) for c in colours} for i in range(10)
    )
    assert side_by_side([("a", Image.new("RGB", (5, 9))), ("b", Image.new("L", (90, 9)))], "t").size[0] > 600


def test_text_is_cut_to_its_place() -> None:
    long = "encoder.layers.encoder_layer_11.self_attention" * 5
    cut = shortened(long, 200, 13)
    assert width_of(cut, 13) <= 200
    assert cut.startswith("encoder")
    assert cut.endswith("attention")
    assert shortened("a\x1b[31m\nb", 200, 13) == "a [31m b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.123456, "0.123"),
        (-12.5, "-12.5"),
        (1234.5, "1,234"),
        (1e-5, "1.0e-5"),
        (2.5e7, "2.5e7"),
        (999, "999"),
    ],
)
def test_numbers_on_a_bar(value: float, text: str) -> None:
    assert number(value) == text


def test_no_side_under_one_pixel() -> None:
    assert fitted_text(Image.new("RGB", (1000, 1)), (24, 24)).size == (24, 1)
    assert png(Image.new("RGB", (1, 1))).startswith(b"\x89PNG")
