"""Embeddings of a directory, nearest neighbors, and principal components as colors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modelprobe.vision.features.embed import nearest_of, pooled_over_places
from modelprobe.vision.features.outputs import MAPS, VECTOR, Layout
from modelprobe.vision.features.pca import colour_basis
from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT, models


def test_the_mean_over_places() -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    # 0..11 and 12..23
    assert pooled_over_places(values, Layout(MAPS, "NCHW", (1,), (2, 3))).tolist() == [5.5, 17.5]
    assert pooled_over_places(values.permute(0, 2, 3, 1), Layout(MAPS, "NHWC", (3,), (1, 2))).tolist() == [5.5, 17.5]
    assert pooled_over_places(torch.ones(1, 7), Layout(VECTOR, "channels", (1,))).shape == (7,)


def test_nearest_by_cosine_in_every_block_of_rows() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8))
    order, alike = nearest_of(vectors, 3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for index in (0, 255, 256, 599):
        all_of_it = unit @ unit[index]
        all_of_it[index] = -2
        assert order[index].tolist() == np.argsort(-all_of_it)[:3].tolist()
        assert alike[index] == pytest.approx(np.sort(all_of_it)[::-1][:3])


def test_of_two_images_each_is_the_others_neighbor_and_zeros_are_like_none() -> None:
    order, alike = nearest_of(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert (order.tolist(), alike.tolist()) == ([[1], [0]], [[0.0], [0.0]])


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    for count, side in ((6, 9), (40, 3)):  # fewer channels than places, and more
        images = [np.random.default_rng(seed).normal(size=(count, side, side)) for seed in range(3)]
        places = np.concatenate([maps.reshape(count, -1).T for maps in images])
        _, sizes, axes = np.linalg.svd(places - places.mean(0), full_matrices=False)
        found = colour_basis(images)
        assert found is not None
        assert found.shares == pytest.approx((sizes**2 / (sizes**2).sum())[:3])
        for index in range(3):
            axis = axes[index] * np.sign(axes[index][np.abs(axes[index]).argmax()])
            scores = (places - places.mean(0)) @ axis
            expected = np.rint((scores - scores.min()) / np.ptp(scores) * 255)
            made = np.concatenate([found.as_rgb(maps)[..., index].reshape(-1) for maps in images])
            assert np.abs(made - expected).max() <= 1


@pytest.mark.parametrize("maps", [np.ones((4, 5, 5)), np.full((4, 5, 5), np.nan)])
def test_what_has_no_components(maps: np.ndarray) -> None:
    assert colour_basis([maps]) is None


@pytest.mark.zoo
def test_on_the_command_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for name in ("digit_a", "digit_b"):
        (Path("d") / f"{name}.png").write_bytes((ROOT / "samples" / f"{name}.png").read_bytes())
    Image.open("d/digit_a.png").save("d/<i>copy.png")
    cli = CommandLine(capsys)
    given = ("features", f"{SAMPLES}:DigitCNN", "--weights", str(ROOT / "samples" / "digit_cnn.pth"), "--image", "d",
             "--layers", "features.3", "--embed", "--pca", "-o", "seen")  # fmt: skip
    assert cli(*given).code == 0
    with np.load("seen/embeddings.npz") as held:
        names, vectors = held["names"].tolist(), held["features.3"]
    assert names == ["d/<i>copy.png", "d/digit_a.png", "d/digit_b.png"]
    assert np.array_equal(np.load("seen/embeddings.npy"), vectors)
    assert np.array_equal(vectors[0], vectors[1])
    model = models.DigitCNN()
    state = torch.load(ROOT / "samples" / "digit_cnn.pth", weights_only=True)
    state = state.get("state_dict", state)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    pixels = torch.from_numpy(np.asarray(Image.open("d/digit_a.png").convert("L")) / np.float32(255))[None, None]
    expected = model.eval().features(pixels).mean((2, 3))[0].detach().numpy()
    assert np.abs(vectors[1] - expected).max() < 1e-5
    same, copy, other = (
        Path(f"seen/{name}/features.3.pca.png").read_bytes() for name in ("digit_a", "_i_copy", "digit_b")
    )
    assert same != other
    assert Image.open(io.BytesIO(same)).size == Image.open(io.BytesIO(copy)).size
    page = Path("seen/neighbors.html").read_text()
    assert "<i>copy" not in page
    assert page.index("digit_a.png") < page.index("digit_b.png")
    Path("seen/digit_b/done.json").unlink()  # interrupted there: resumed, and the arrays are whole again
    Path("seen/embeddings.npz").unlink()
    assert "2 of 3 images were complete before" in cli(*given).out
    with np.load("seen/embeddings.npz") as held:
        assert np.allclose(held["features.3"], vectors, rtol=1e-5)
    assert "--embed needs a directory" in said(cli(*given[:-2]))
