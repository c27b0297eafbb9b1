"""The images that `--image` names: found, opened, turned upright and made gray or RGB.

Limits: an image of more than `MOST_PIXELS` is refused from its header, before memory is taken for it, so that one
image never needs more than about 300 MB decoded. Nothing outside Pillow is run (PostScript is refused).
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from modelprobe.errors import BadInput, one_line
from modelprobe.model.zoo.names import natural
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.arrays import ARRAY_SUFFIX, Bands, bands_of_image, bands_picture, read_array, slices_of

MOST_PIXELS = 100_000_000
"""20,000 x 5,000: 300 MB as RGB. Pillow itself warns from 89 million on and refuses from 179 million on."""

FOREIGN_FORMATS = frozenset({"EPS"})
"""Formats for which Pillow would start another program (Ghostscript runs the program that such a file is)."""

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Photo:
    """One image, upright, as `L` (gray) or `RGB`. `notes` say what was done to it, without naming the file.

    Where `bands` are given the model takes those, and `picture` only shows them; `frames` are those of a video or the
    slices of a volume. `given` is what the model takes, [C, ..], prepared already.
    """

    path: Path
    picture: Image.Image
    notes: tuple[Note, ...] = ()
    bands: Bands | None = None
    frames: tuple[Image.Image, ...] = ()
    given: Any = None

    @property
    def as_it_is(self) -> bool:
        """Whether it is given to the model without resizing: a signal, a volume, what somebody prepared."""
        return self.given is not None or (self.bands is not None and self.bands.ndim != 3)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.picture.height, self.picture.width


class UnreadableError(BadInput):
    """One image cannot be looked at: the others may be."""


# Which files?


def find_images(specs: Sequence[str]) -> list[Path]:
    """The files that `specs` name: files, directories (the images in them, not below), wildcards (`**` goes below).

    In the order given, each once; within a directory or a wildcard by name, numbers by value. A file that is named is
    taken whatever its suffix. Raises BadInput when a spec names nothing.
    """
    found: dict[Path, None] = {}
    for spec in specs:
        found.update(dict.fromkeys(_image_files(spec)))
    if not found:
        raise BadInput("no image was named", "give a file, a directory or a wildcard: --image cat.jpg")
    return list(found)


def _image_files(spec: str) -> list[Path]:
    if spec.startswith(("http://", "https://")):
        raise BadInput(f"{spec} is not on this machine", "download it first")
    try:
        path = Path(spec).expanduser()
        if path.is_dir():
            return _pictures_in(path, spec)
        if path.exists():
            return [path]
        wild = glob.has_magic(spec)
        matches = [Path(name) for name in glob.glob(os.path.expanduser(spec), recursive=True)] if wild else []  # noqa: PTH111, PTH207 - of absolute patterns too
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, no such user
        raise BadInput(f"--image {spec} cannot be looked up: {one_line(error)}", "check the path") from error
    if not wild:
        raise BadInput(f"there is no image {spec}", _nearest(path))
    files = [match for match in matches if match.is_file()]
    pictures = _sorted_by_name(match for match in files if _is_picture(match))
    pictures = pictures or _sorted_by_name(match for match in files if match.suffix.lower() == ARRAY_SUFFIX)
    if not pictures:
        what = "no file with the suffix of an image" if files else "no file"
        raise BadInput(f"--image {spec!r} matches {what}", "check the pattern; `**` goes into directories")
    return pictures


def _pictures_in(folder: Path, spec: str) -> list[Path]:
    files = [file for file in folder.iterdir() if file.is_file()]
    pictures = _sorted_by_name(file for file in files if _is_picture(file))
    pictures = pictures or _sorted_by_name(file for file in files if file.suffix.lower() == ARRAY_SUFFIX)
    if not pictures:
        raise BadInput(f"the directory {spec} holds no image", f"directories below it: --image '{spec}/**/*'")
    return pictures


def _sorted_by_name(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: (natural(file.name), str(file)))


def _is_picture(file: Path) -> bool:
    Image.init()
    return not file.name.startswith(".") and Image.EXTENSION.get(file.suffix.lower()) in Image.OPEN


def _nearest(path: Path) -> str:
    import difflib

    try:
        names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        names = []
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else "check the path"


# What is in one?


def open_image(
    path: str | os.PathLike[str],
    values: tuple[float, float] | None = None,
    channels: int | None = None,
    space: int = 2,
) -> Photo:
    """The image in a file, upright, `L` or `RGB`, and notes on what was converted.

    `values` are those that become black and white, of gray images with more than 8 bits and of arrays. `channels` are
    those of the model: of neither 1 nor 3 of them, and of an array in a .npy file, `bands` hold the values; of an array
    with `space` 1 (a signal) or 3 (a volume) dimensions beside the channels too.

    Raises BadInput for what is missing, empty, truncated, no image, of more than `MOST_PIXELS` pixels or of another
    number of channels.
    """
    path = Path(path)
    if path.suffix.lower() == ARRAY_SUFFIX and path.is_file():
        bands, told = read_array(path, channels or 3, values, MOST_PIXELS, space)
        return Photo(path, bands_picture(bands), tuple(told), bands, slices_of(bands))
    if space == 1:
        raise BadInput(f"{path} is no array, and the model takes signals", "numpy.save one as .npy, channels x length")
    with _as_bad_input(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on sizes (the limit here is ours), broken EXIF, palettes
        if path.stat().st_size == 0:
            raise BadInput(f"{path} is empty (0 bytes)", "was it downloaded whole?")
        Image.init()
        with Image.open(path, formats=[name for name in Image.ID if name not in FOREIGN_FORMATS]) as opened:
            _check_size(path, opened.size)
            raw = _raw_mode(opened)
            opened.load()
            upright, notes = _upright(opened)
            if channels not in (None, 1, 3):
                bands, told = bands_of_image(path, opened, upright, channels)
                return Photo(path, bands_picture(bands), (*notes, *told), bands)
            picture, more = _plain_mode(upright, raw, values)
            frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        notes = (*notes, Note(f"the first of {frames} frames was taken", Level.ASSUMED))
    return Photo(path, picture, (*notes, *more))


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MOST_PIXELS:
        raise BadInput(
            f"{path} has {width:,} x {height:,} pixels, more than {MOST_PIXELS // 10**6} million",
            "scale it down first: a model sees a few hundred pixels a side",
        )


@contextmanager
def _as_bad_input(path: Path) -> Iterator[None]:
    """Whatever Pillow raises over a file, as one line about that file."""
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise BadInput(f"there is no image {path}", _nearest(path)) from error
    except IsADirectoryError as error:
        raise BadInput(f"{path} is a directory", "name an image in it") from error
    except PermissionError as error:
        raise BadInput(f"{path} may not be read", "check its permissions") from error
    except Image.DecompressionBombError as error:
        raise BadInput(
            f"{path} has more than {MOST_PIXELS // 10**6} million pixels",
            "scale it down first: a model sees a few hundred pixels a side",
        ) from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{path} is no image that Pillow can read{_what_instead(path)}", _hint(path)) from error
    except MemoryError as error:
        raise BadInput(f"not enough memory for the image {path}", "scale it down first") from error
    except Exception as error:  # decoders of fifty formats raise whatever they stumble over
        reason = one_line(error).rstrip(".")
        cut = "is truncated" if "truncated" in reason.lower() else "is damaged"
        raise BadInput(f"{path} {cut}: {reason}", "download or save it again") from error


def _file_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _what_instead(path: Path) -> str:
    head = _file_head(path).lstrip()
    for start, name in (
        (b"%!PS", "PostScript"),
        (b"%PDF", "a PDF"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"<svg", "SVG, which has no pixels"),
        (b"<", "text in a markup language, such as a web page"),
        (b"PK\x03\x04", "a zip archive"),
    ):
        if head.startswith(start):
            return f": it is {name}"
    return ""


def _hint(path: Path) -> str:
    if _file_head(path).startswith(b"version https://git-lfs"):
        return "git lfs pull fetches the image"
    return "convert it to PNG or JPEG first"


def _upright(opened: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    """Turned and mirrored as the camera's EXIF orientation says."""
    try:
        orientation = opened.getexif().get(EXIF_ORIENTATION, 1)
        if orientation in range(2, 9):
            return ImageOps.exif_transpose(opened), (Note("turned upright as its EXIF orientation says", Level.INFO),)
    except Exception:  # noqa: BLE001 - whatever a broken EXIF block makes Pillow raise
        return opened.copy(), (Note("its EXIF block is broken: taken as upright", Level.ASSUMED),)
    return opened.copy(), ()


def _raw_mode(opened: Image.Image) -> str:
    """How the file stores a pixel, where the decoder says: `RGB;16B` for what Pillow then reads as 8-bit `RGB`."""
    for tile in getattr(opened, "tile", ()):
        args = tile[3] if len(tile) > 3 else ""
        first = args[0] if isinstance(args, tuple) and args else args
        if isinstance(first, str):
            return first
    return ""


def _plain_mode(
    picture: Image.Image, raw: str, values: tuple[float, float] | None
) -> tuple[Image.Image, tuple[Note, ...]]:
    """The image as `L` or `RGB`, and what was converted."""
    mode = picture.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _narrowed(picture, values)
    notes: list[Note] = []
    if "16" in raw and mode in ("L", "LA", "RGB", "RGBA"):
        notes.append(Note("16 bits per channel, read as 8", Level.INFO))
    if mode == "P":
        notes.append(Note("palette colors made RGB", Level.INFO))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        flat, note = _without_alpha(picture.convert("RGBA"))
        return (flat.convert("L") if mode in GREY_MODES else flat), (*notes, *note)
    if mode in ("1", "L"):
        return picture.convert("L"), tuple(notes)
    if mode not in ("RGB", "P"):
        notes.append(Note(f"{mode} made RGB, without a color profile", Level.INFO))
    return picture.convert("RGB"), tuple(notes)


def _without_alpha(picture: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    """What a person sees on a white page. The colors that a file keeps under transparent pixels are arbitrary."""
    lowest, _ = picture.getchannel("A").getextrema()
    if lowest == 255:
        return picture.convert("RGB"), (Note("its alpha channel, opaque everywhere, left out", Level.INFO),)
    page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    page.alpha_composite(picture)
    return page.convert("RGB"), (Note("transparent pixels put on white", Level.INFO),)


FEW_BITS = 2**14
"""16-bit files whose values all lie below hold 8 to 14 bits, as cameras and scanners make them."""


def _narrowed(picture: Image.Image, asked: tuple[float, float] | None) -> tuple[Image.Image, tuple[Note, ...]]:
    """16- and 32-bit gray as 8-bit gray: 16 bits divided by 257, floats of 0..1 by 1/255, anything else stretched.

    Medical and scientific images have 10 to 14 bits in files of 16: divided by 257 they would be black.
    """
    import numpy as np

    values: Any = np.asarray(picture, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if asked is not None:
        low, high = asked
        scaled = (np.clip(values, low, high) - low) / (high - low) * 255
        note = Note(f"values {low:g}..{high:g} made 0..255, as --range says", Level.INFO)
    elif picture.mode == "F" and low >= 0 and high <= 1:
        scaled, note = values * 255, Note("32-bit floats of 0..1 read as 8 bits", Level.INFO)
    elif low >= 0 and FEW_BITS <= high <= 65535 and picture.mode != "F":
        scaled, note = values / 257, Note("16-bit gray read as 8 bits", Level.INFO)
    else:
        scaled = (values - low) / (high - low or 1.0) * 255
        bits = (
            "16-bit"
            if picture.mode.startswith("I;16") or (picture.mode == "I" and 0 <= low <= high < FEW_BITS)
            else "32-bit"
        )
        text = f"{bits} gray stretched from {low:g}..{high:g} to 8 bits (--range LOW,HIGH names other values)"
        note = Note(text, Level.ASSUMED)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)), (note,)


def gathered(told: Iterable[tuple[Path, Note]]) -> tuple[Note, ...]:
    """Notes on many images as few: each text once, with the file, or with how many files and the first of them."""
    files: dict[Note, list[Path]] = {}
    for path, note in told:
        files.setdefault(note, []).append(path)
    return tuple(
        Note(
            f"{paths[0].name}: {note.text}."
            if len(paths) == 1
            else f"{len(paths):,} images, {paths[0].name} first: {note.text}.",
            note.level,
        )
        for note, paths in files.items()
    )


ITEM_AXES = {"Conv1d": 2, "Conv2d": 3, "Conv3d": 4}
"""How many axes one signal, image or volume has for a network that begins with such a layer."""

TAKEN_AXES = {
    2: "signals, [C, L] or [B, C, L]",
    3: "images, [C, H, W] or [B, C, H, W], or videos, [B, C, T, H, W]",
    4: "volumes, [C, D, H, W] or [B, C, D, H, W]",
}


def as_batch(x: Any, name: str, model: Any) -> Any:
    """Images as a tensor [B, C, H, W] of the model's type, of one [C, H, W] or several, for the function `name`; videos

    [B, C, T, H, W] as they are. For a network whose first convolution has another dimension signals [C, L] or
    [B, C, L], volumes [C, D, H, W] or [B, C, D, H, W]. Raises BadInput.
    """
    kinds = (base.__name__ for module in model.modules() for base in type(module).__mro__)
    axes = next((ITEM_AXES[kind] for kind in kinds if kind in ITEM_AXES), 3)
    shape = "x".join(map(str, x.shape))
    if not x.is_floating_point():
        raise BadInput(f"{name} takes floats, not {x.dtype}", "prepare x as the model takes it, or x.float()")
    if x.dim() not in (axes, axes + 1, max(axes + 1, 5 if axes == 3 else 0)):
        raise BadInput(f"{name} takes {TAKEN_AXES[axes]} of floats, not {shape}", "x[None]")
    if not x.numel():
        raise BadInput(f"{name} was given nothing to look at: x is {shape}", "give one image at least")
    wanted = next((one.dtype for one in model.parameters() if one.is_floating_point()), x.dtype)
    return (x[None] if x.dim() == axes else x).to(wanted)
