"""Makes the files of this directory that are not written by hand: `python samples/make.py`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent


def picture(size: int = 224) -> Image.Image:
    """A disc, a square and a triangle on a gradient: something with edges, corners and plain areas."""
    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    draw = ImageDraw.Draw(image)
    unit = size // 8
    draw.ellipse((unit, unit, 3 * unit, 3 * unit), fill=(200, 60, 50))
    draw.rectangle((5 * unit, unit, 7 * unit, 3 * unit), fill=(60, 120, 200))
    draw.polygon([(4 * unit, 4 * unit), (2 * unit, 7 * unit), (6 * unit, 7 * unit)], fill=(240, 200, 60))
    return image


def training_run(path: Path) -> None:
    """A checkpoint as a training script leaves it: `TinyCNN` compiled within DataParallel, epoch, averaged weights."""
    import torch
    from models import TinyCNN

    torch.manual_seed(0)
    state = TinyCNN().state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    averaged = {f"module.{name}": value.clone() for name, value in state.items()}
    torch.save({"epoch": 7, "state_dict": wrapped, "state_dict_ema": averaged}, path)


def main() -> None:
    """Write everything."""
    training_run(HERE / "tiny_ddp.pth")
    picture().save(HERE / "shapes.png", optimize=True)


if __name__ == "__main__":
    main()
