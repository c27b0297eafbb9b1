"""Whatever is believed of a tensor's axes, it can be arranged, and nothing of it is lost."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelprobe.vision.features.axes import Axis
from modelprobe.vision.features.layouts import MATRIX, NOTHING, layout_of
from modelprobe.vision.features.maps import layer_maps

SIZES = st.sampled_from([1, 1, 2, 3, 4, 6, 9, 12, 13])
GRIDS = st.dictionaries(st.sampled_from([(2, 3), (3, 3), (3, 4), (2, 6), (1, 4), (6, 2)]), st.none())


@st.composite
def tensors(draw: st.DrawFn):
    shape = tuple(draw(st.lists(SIZES, max_size=6)))
    axes = []
    for size in shape:
        letter = draw(st.sampled_from("BCHWTNGrsckPM???"))
        grid = draw(st.sampled_from([(), (2, 3), (3, 4), (3, 3), (2, 2, 3), (2, 2)])) if letter in "NPM" else ()
        spare = max(0, size - torch.Size(grid).numel()) if grid else 0
        before = draw(st.integers(0, spare))
        axes.append(Axis(letter, grid, before, spare - before))
    return shape, tuple(axes), draw(GRIDS)


@settings(max_examples=100, deadline=None)
@given(tensors())
def test_any_tensor_can_be_arranged(case) -> None:
    shape, axes, grids = case
    layout = layout_of(shape, axes, grids)
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    maps = layer_maps(tensor, layout)
    if layout.kind == NOTHING:
        return
    held = maps.row.size or maps.channels.size
    assert held
    assert held <= tensor.numel()
    if maps.row.size:
        assert maps.row.size == tensor.numel()
    elif not layout.pieces and layout.kind != MATRIX and not maps.frames.size:
        beside = maps.channels.shape[0] * (layout.before + layout.after)
        assert maps.channels.size + beside == tensor.numel()
        assert len(set(maps.channels.reshape(-1).tolist())) == maps.channels.size  # every value once
