"""A trace file in place of a model: what cannot be asked of it."""

from __future__ import annotations

from typing import Any

from modelprobe.errors import BadInput

SPELLED = {"settings": "--set", "redirect_device": "--redirect-device", "unsafe_load": "--unsafe-load"}


def refuse_model_options(*groups: Any, **others: bool) -> None:
    """Raise BadInput for options that only a model can obey: those of `groups` beside the target, and `others`."""
    given = [f"--{name.removeprefix('--').replace('_', '-')}" for name, was in others.items() if was]
    for group in groups:
        for name, field in type(group).__dataclass_fields__.items():
            if name != "target" and getattr(group, name) != field.default:
                given.append(SPELLED.get(name, f"--{name.replace('_', '-')}"))
    if given:
        raise BadInput(
            f"{', '.join(given)} cannot change a run that was recorded", "give the model itself, or leave it out"
        )
