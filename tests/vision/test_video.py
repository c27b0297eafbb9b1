"""Frames of videos: which are taken, what a model is given of them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import VIDEO
from modelprobe.vision.images import Photo
from modelprobe.vision.preprocessing.transform import NEVER, Preprocessing
from modelprobe.vision.video import VideoRequest, check_video, frame_numbers, join_frames, read_clip
from tests.command_line import SAMPLES, CommandLine, said

av = pytest.importorskip("av")


def written_video(path: Path, frames: int, rate: int = 10) -> Path:
    """A video of 64 x 48 whose frame i is gray of 10 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return written_video(tmp_path / "v.mp4", 20)


@pytest.mark.parametrize(
    ("count", "wanted", "sampling", "expected"),
    [
        (20, 4, "segments", [2, 7, 12, 17]),  # the middle of 0..5, 5..10, 10..15, 15..20
        (20, 3, "segments", [3, 10, 16]),  # of 0..6.67, 6.67..13.33, 13.33..20
        (20, 4, "dense", [8, 9, 10, 11]),
        (2, 4, "segments", [0, 0, 1, 1]),
        (2, 4, "dense", [0, 1, 1, 1]),
        (1, 3, "random", [0, 0, 0]),
    ],
)
def test_which_frames(count: int, wanted: int, sampling: str, expected: list[int]) -> None:
    assert frame_numbers(count, wanted, sampling) == expected


def test_random_frames_are_one_of_each_segment_and_repeat_with_their_seed() -> None:
    draws = [frame_numbers(100, 5, "random", seed) for seed in range(30)]
    assert all([number // 20 for number in draw] == [0, 1, 2, 3, 4] for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 20
    assert frame_numbers(100, 5, "random", 7) == draws[7]


def test_frames_are_photos_named_after_the_video(video: Path) -> None:
    clip = read_clip(VideoRequest(video, 4), None)
    assert [photo.path.name for photo in clip.photos] == ["v-0002", "v-0007", "v-0012", "v-0017"]
    grays = [np.asarray(photo.picture).mean() for photo in clip.photos]
    assert grays == pytest.approx([20, 70, 120, 170], abs=3)  # compressed
    assert "20 frames, 10 a second, 64 x 48 pixels. Looked at: 2, 7, 12, 17" in clip.note.text


def test_a_model_of_videos_is_given_all_frames_at_once(video: Path) -> None:
    (photo,) = read_clip(VideoRequest(video), 5).photos
    seeing = Preprocessing(3, NEVER, None, None, "bilinear", (0.0,) * 3, (1.0,) * 3, "test", VIDEO, 5)
    (given,) = seeing.arguments(photo)
    assert given.shape == (1, 3, 5, 48, 64)
    # the middle of each of 5 segments of 4 frames: 2, 6, 10, 14, 18
    assert (given.mean((0, 1, 3, 4)) * 255).tolist() == pytest.approx([20, 60, 100, 140, 180], abs=3)
    (still,) = seeing.arguments(Photo(Path("x.png"), Image.new("RGB", (64, 48), (9, 9, 9))))
    assert torch.equal(still[:, :, 0], still[:, :, 4])


def test_frames_that_the_header_promises_and_the_file_lacks(video: Path) -> None:
    assert len(read_clip(VideoRequest(video, 20, "dense"), None).photos) == 20
    raw = video.with_name("cut.avi")
    written_video(raw, 20)
    raw.write_bytes(raw.read_bytes()[: raw.stat().st_size * 4 // 5])
    found = read_clip(VideoRequest(raw, 2), None)
    assert len(found.photos) == 2
    assert "8 frames of 20 (the rest is cut off or damaged)" in found.note.text


def test_strips_and_animations(video: Path, tmp_path: Path) -> None:
    clip = read_clip(VideoRequest(video, 3, "dense"), None)
    for photo, shade in zip(clip.photos, (10, 20, 30), strict=True):
        (tmp_path / photo.path.name).mkdir()
        Image.new("RGB", (40, 30), (shade,) * 3).save(tmp_path / photo.path.name / f"cam.{shade}.png")
    (note,) = join_frames("v", [tmp_path / photo.path.name for photo in clip.photos], tmp_path)
    assert note.text == "Frames in a row and as an animation: v.cam.strip.png, v.cam.gif."
    strip = np.asarray(Image.open(tmp_path / "v.cam.strip.png"))
    assert strip.shape == (30, 120, 3)
    assert strip[0, ::40, 0].tolist() == [10, 20, 30]
    assert Image.open(tmp_path / "v.cam.gif").n_frames == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.mp4", b"hello world" * 50, "cannot be decoded"),
        ("empty.mp4", b"", "cannot be decoded"),
        ("cut.mpg", b"\0\0\1\xba" + bytes(2000), "decoded"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nv.mp4\n#EXT-X-ENDLIST\n", "cannot be decoded"),
    ],
)
def test_files_that_are_no_videos(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        check_video(VideoRequest(tmp_path / name))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "s.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(BadInput, match="has no video in it"):
        check_video(VideoRequest(tmp_path / "s.wav"))


@pytest.mark.zoo
def test_on_the_command_line(video: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli, model = CommandLine(capsys), (f"{SAMPLES}:DigitCNN", "--weights", "random", "--video", "v.mp4")
    answer = cli("cam", *model, "--frames", "3", "-o", "maps")
    assert answer.code == 0
    assert "Looked at: 3, 10, 16" in " ".join(answer.out.split())
    assert Image.open("maps/v.gradcam.gif").n_frames == 3
    answer = cli("features", *model, "--frames", "2", "--layers", "features.0", "-o", "seen")
    assert answer.code == 0
    assert Path("seen/v.features.0.overlay.strip.png").is_file()
    assert (
        "were complete before" in cli("features", *model, "--frames", "2", "--layers", "features.0", "-o", "seen").out
    )
    assert cli("predict", *model, "--frames", "2", "-f", "csv").out.count("v-0005") > 0
    assert (
        said(cli("predict", f"{SAMPLES}:DigitCNN", "--video", "no.mp4")) == "there is no video no.mp4 | check the path"
    )
    assert "are of a video" in said(cli("predict", f"{SAMPLES}:DigitCNN", "--image", "x.png", "--frames", "2"))


def test_fewer_frames_than_were_asked_for(video: Path) -> None:
    assert read_clip(VideoRequest(video, 30), None).note.text.endswith("; it has fewer than 30.")
    assert "fewer" not in read_clip(VideoRequest(video, 20), None).note.text


@pytest.mark.parametrize(("delay", "said"), [(None, "no rate named"), (100, "10 a second")])
def test_a_gif_may_name_no_rate(delay: int | None, said: str, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), (40 * number, 0, 0)) for number in range(4)]
    more = {} if delay is None else {"duration": delay}
    pages[0].save(tmp_path / "v.gif", save_all=True, append_images=pages[1:], **more)
    assert f"4 frames, {said}, 8 x 8" in read_clip(VideoRequest(tmp_path / "v.gif"), None).note.text
