"""Frames of a video, read with PyAV: which are taken, and the pictures of successive frames as a strip and a GIF."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modelprobe.errors import BadInput, one_line
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.images import MOST_PIXELS, Photo

USUAL_FRAMES = 8
"""Frames of a video for a model that takes one image."""

GIF_MILLISECONDS = 300
STRIP_SIDE = 256
"""The longer side of a frame in a strip, in pixels, at most."""


@dataclass(frozen=True)
class VideoRequest:
    """Which video, how many of its frames (None: as many as the model takes, or 8), and which."""

    path: Path
    frames: int | None = None
    sampling: str = "segments"
    seed: int = 0


@dataclass(frozen=True)
class Clip:
    """Frames of a video as photos, each under the path `video.mp4/video-0012`; for a video model one photo of all."""

    path: Path
    photos: tuple[Photo, ...]
    note: Note

    @property
    def files(self) -> list[Path]:
        """The paths of the photos."""
        return [photo.path for photo in self.photos]

    def photo_at(self, file: Path) -> Photo | None:
        """The photo of that path; None for a path of something else."""
        return next((photo for photo in self.photos if photo.path == file), None)


def frame_numbers(count: int, wanted: int, sampling: str, seed: int = 0) -> list[int]:
    """Which of `count` frames are taken, from 0: `wanted` of them, repeated where there are fewer.

    `segments`: the middle of each of as many equal segments; `random`: a seeded random one of each (temporal segment
    networks, Wang et al. 2016, arXiv:1608.00859); `dense`: consecutive ones around the middle of the video.
    """
    if sampling == "dense":
        first = max(0, (count - wanted) // 2)
        return [min(first + step, count - 1) for step in range(wanted)]
    length = count / wanted
    if sampling == "segments":
        return [min(int(length * step + length / 2), count - 1) for step in range(wanted)]
    import numpy as np

    random = np.random.default_rng(seed)
    edges = [(int(length * step), max(int(length * (step + 1)), int(length * step) + 1)) for step in range(wanted)]
    return [int(random.integers(first, min(end, count))) for first, end in edges]


def read_clip(asked: VideoRequest, model_frames: int | None) -> Clip:
    """The frames that `asked` names; `model_frames` of them as one photo for a model that takes so many at once.

    Raises BadInput for what cannot be decoded or has no frame.
    """
    wanted = asked.frames or model_frames or USUAL_FRAMES
    with _opened_video(asked.path) as (container, stream):
        count, rate = _frame_count(asked.path, container, stream), stream.average_rate
        size = f"{stream.width} x {stream.height} pixels"
    numbers = frame_numbers(count, wanted, asked.sampling, asked.seed)
    pictures = _decoded(asked.path, numbers)
    lost = ""
    if max(numbers) not in pictures:  # the container promises more frames than there are
        promised, count = count, max(pictures) + 1
        lost = f" of {promised:,} (the rest is cut off or damaged)"
        numbers = frame_numbers(count, wanted, asked.sampling, asked.seed)
        pictures = _decoded(asked.path, numbers)
    named = rate and not _gif_without_delays(asked.path)
    speed = f"{float(rate):.4g} a second" if named else "no rate named"
    twice = ", and some are given twice" if model_frames else ""
    short = f"; it has fewer than {wanted}{twice}" if count < wanted else ""
    shown = ", ".join(str(number) for number in dict.fromkeys(numbers))
    how = {"segments": f"the middle of each of {wanted} segments", "dense": "consecutive, around the middle"}.get(
        asked.sampling, f"a random one of each of {wanted} segments, seed {asked.seed}"
    )
    text = f"{asked.path.name}: {count:,} frames{lost}, {speed}, {size}. Looked at: {shown} ({how}){short}."
    return Clip(
        asked.path,
        tuple(_photos(asked.path, numbers, pictures, bool(model_frames))),
        Note(text, Level.WARNING if lost else Level.INFO),
    )


def _gif_without_delays(path: Path) -> bool:
    """Whether it is a GIF that leaves the rate to whoever shows it: decoders name one of their own."""
    try:
        with Image.open(path) as picture:
            return picture.format == "GIF" and not picture.info.get("duration")
    except (OSError, ValueError):
        return False  # a video


def _photos(path: Path, numbers: Sequence[int], pictures: dict[int, Image.Image], at_once: bool) -> Iterator[Photo]:
    if at_once:
        frames = tuple(pictures[number] for number in numbers)
        yield Photo(path / path.stem, frames[len(frames) // 2], (), None, frames)
        return
    for number in dict.fromkeys(numbers):
        yield Photo(path / f"{path.stem}-{number:04d}", pictures[number])


def check_video(asked: VideoRequest) -> None:
    """Raise now what `read_clip` would raise later of the file, unless its later frames are the damaged ones."""
    with _opened_video(asked.path) as (container, stream):
        if next(_whole_frames(container, stream), None) is None:
            raise _no_frames(asked.path)


@contextmanager
def _opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError as error:
        raise BadInput("videos need PyAV, which is not installed", "pip install av") from error
    if not path.is_file():
        raise BadInput(f"there is no video {path}", "check the path")
    av.logging.set_level(av.logging.PANIC)
    try:
        # Given an open file and no protocol, a playlist cannot have other files or addresses opened.
        with path.open("rb") as file, av.open(file, options={"protocol_whitelist": "pipe"}) as container:
            if not container.streams.video:
                raise BadInput(f"{path} has no video in it", "name a file with a video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _no_frames(path)
            if (stream.width or 0) * (stream.height or 0) > MOST_PIXELS:
                raise BadInput(f"{path} has more than {MOST_PIXELS // 10**6} million pixels", "scale it down first")
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise BadInput(f"{path} cannot be decoded: {reason}", "is it a whole video? ffprobe tells more") from error


def _frame_count(path: Path, container: Any, stream: Any) -> int:
    count = int(stream.frames) or sum(1 for _ in _whole_frames(container, stream))
    if count == 0:
        raise _no_frames(path)
    return count


def _whole_frames(container: Any, stream: Any) -> Iterator[Any]:
    """The frames up to the first that is damaged or cut off."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        yield from container.decode(stream)


def _no_frames(path: Path) -> BadInput:
    return BadInput(f"{path} has no frame that can be decoded", "is it a whole video? ffprobe tells more")


def _decoded(path: Path, numbers: Sequence[int]) -> dict[int, Image.Image]:
    """The frames of these numbers, upright; where the video ends before, its last frame too."""
    found: dict[int, Image.Image] = {}
    last = None
    with _opened_video(path) as (container, stream):
        for number, frame in enumerate(_whole_frames(container, stream)):
            last = number, frame
            if number in numbers:
                found[number] = _frame_picture(frame)
            if number == max(numbers):
                break
        if last is None:
            raise _no_frames(path)
        found.setdefault(last[0], _frame_picture(last[1]))
    return found


def _frame_picture(frame: Any) -> Image.Image:
    picture: Image.Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if getattr(frame, "rotation", 0) else picture


def join_frames(stem: str, pieces: Sequence[Path], folder: Path) -> list[Note]:
    """The pictures of successive frames in the directories `pieces`, of one kind each, as `STEM.KIND.strip.png` and

    `STEM.KIND.gif` in `folder`. Returns a note.
    """
    kinds: dict[str, list[Path]] = {}
    for piece in pieces:
        for file in sorted(piece.glob("*.png")):
            kind = re.sub(r"\.-?\d+(?=(\.heat)?$)", "", file.stem)  # a map's class, which is each frame's own
            kinds.setdefault(kind, []).append(file)
    written = []
    for kind, files in kinds.items():
        if len(files) > 1:
            name = f"{stem}.{kind}"
            _join([Image.open(file).convert("RGB") for file in files], folder / name)
            written.append(name)
    if not written:
        return []
    text = f"Frames in a row and as an animation: {written[0]}.strip.png, {written[0]}.gif"
    return [Note(f"{text}{f', and of {len(written) - 1} more kinds' if len(written) > 1 else ''}.", Level.INFO)]


def _join(pictures: list[Image.Image], place: Path) -> None:
    size = max(one.width for one in pictures), max(one.height for one in pictures)
    pages = []
    for one in pictures:
        page = Image.new("RGB", size, "white")
        page.paste(one)
        pages.append(page)
    Path(f"{place}.gif").write_bytes(animation(pages))
    for page in pages:
        page.thumbnail((STRIP_SIDE, STRIP_SIDE), Image.Resampling.LANCZOS)
    strip = Image.new("RGB", (sum(one.width for one in pages), pages[0].height), "white")
    for number, one in enumerate(pages):
        strip.paste(one, (number * one.width, 0))
    strip.save(f"{place}.strip.png")


def animation(pages: Sequence[Image.Image]) -> bytes:
    """A GIF of pages of one size."""
    out = io.BytesIO()
    pages[0].save(out, "GIF", save_all=True, append_images=pages[1:], duration=GIF_MILLISECONDS, loop=0)
    return out.getvalue()
