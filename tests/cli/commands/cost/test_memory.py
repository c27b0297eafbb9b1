"""`modelprobe memory`: the fields that scripts read, and questions that are wrong."""

from __future__ import annotations

import json

import pytest

from modelprobe.cli.app import main

NET = "samples/models.py:TinyCNN"


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["memory", NET, *arguments, "-f", "json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_fields_that_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--train", "--optimizer", "adamw", "--device", "cuda", "--fits", "32MiB", "--context", "1MiB")
    assert {"peak_bytes", "parts", "reserved_bytes", "largest_batch"} <= set(found)
    assert sum(found["parts"].values()) == found["peak_bytes"]  # type: ignore[attr-defined]


def test_the_largest_batch_fits_and_the_next_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    batch = asked(capsys, "--fits", "8MiB")["largest_batch"]
    assert asked(capsys, "--batch", str(batch))["peak_bytes"] <= 8 * 2**20  # type: ignore[operator]
    assert asked(capsys, "--batch", str(int(str(batch)) + 1))["peak_bytes"] > 8 * 2**20  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fits", "1KiB"), "weights and buffers alone"),
        (("--fits", "a100-41"), "did you mean a100-40"),
        (("--fits", "1GiB", "--batch", "2"), "leave one of them out"),
        (("--train", "--freeze", "*"), "every parameter is frozen"),
        (("--optimizer", "adam"), "add --train"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_questions_are_one_line(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", NET, *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert text in said.err


def test_a_device_by_name_is_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--fits", "a100-40", "--context", "39GiB")
    assert found["device"] == "cuda"
    assert found["reserved_bytes"] + found["context_bytes"] <= 40 * 2**30
    assert asked(capsys, "--fits", "1GiB")["device"] == "cpu"
