"""`profile --against`: two targets, two settings of one, what is refused, what exits with 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from modelprobe.cost.timing import against as engine
from modelprobe.cost.timing.against import AgainstResult, TimedSide
from modelprobe.cost.timing.paired import PairedRatio
from modelprobe.report.blocks import Level, Note
from modelprobe.report.formats import RENDERERS, Style
from tests.command_line import SAMPLES, CommandLine, said

NET = f"{SAMPLES}:TinyCNN"
BRIEF = ("--input", "16", "--seconds", "0.02", "--threads", "1")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def told(cli: CommandLine, *line: str, code: int = 0) -> dict[str, Any]:
    answer = cli("profile", NET, *BRIEF, *line, "-f", "json")
    assert answer.code == code, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


@pytest.mark.zoo
def test_a_wider_network_is_slower(cli: CommandLine) -> None:
    found = told(cli, "--set", "width=256", "--set-b", "width=8")
    assert found["answer"] == "slower"
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1]
    assert found["first"]["name"] == "TinyCNN width=256"
    assert found["second"]["name"] == "TinyCNN width=8"
    assert len(found["first"]["samples_s"]) == len(found["second"]["samples_s"]) == found["pairs"] >= 8
    back = told(cli, "--set-b", "width=256")
    assert back["answer"] == "faster"
    assert back["ratio"] < 1 < found["ratio"]


@pytest.mark.zoo
def test_an_argument_for_both_stands_in_both_names(cli: CommandLine) -> None:
    found = told(cli, "--set", "width=8", "--against", NET)
    assert [found[side]["name"] for side in ("first", "second")] == ["TinyCNN width=8", "TinyCNN width=8"]


@pytest.mark.zoo
def test_two_settings_of_one(cli: CommandLine) -> None:
    found = told(cli, "--against-with", "dtype=bfloat16, channels-last,threads=2")
    assert found["first"]["setting"] == ["cpu", "1 thread"]
    assert found["second"]["setting"] == ["cpu", "2 threads", "channels last"]
    assert found["second"]["inputs"][0].endswith("bfloat16")
    plain = told(cli, "--amp", "--against-with", "amp=no")
    assert plain["first"]["setting"] == ["cpu", "1 thread", "autocast"]
    assert plain["second"]["setting"] == ["cpu", "1 thread"]


@pytest.mark.zoo
def test_another_target(cli: CommandLine) -> None:
    found = told(cli, "--against", "resnet18")
    assert (found["answer"], found["second"]["name"]) == ("faster", "resnet18")
    answer = cli(
        "profile", NET, *BRIEF[2:], "--input", "1x3x16x16", "--against", f"{SAMPLES}:DigitCNN"
    )  # which takes one channel
    assert answer.code == 4, answer.err
    assert "DigitCNN" in answer.err


@pytest.mark.zoo
def test_slower_than_allowed_is_a_failed_check(cli: CommandLine) -> None:
    line = ("--set", "width=256", "--set-b", "width=8", "--fail-if-slower")
    answer = cli("profile", NET, *BRIEF, *line, "5%")
    assert answer.code == 1
    assert "TinyCNN width=256 is slower by more than 5.0%" in answer.err
    assert "Answer" in answer.out
    assert told(cli, "--set-b", "width=256", "--fail-if-slower", "5%")["exceeded"] is False


@pytest.mark.parametrize(
    ("ratio", "answer", "text"),
    [
        (PairedRatio(1.004, 1.002, 1.006, 20), "cannot tell", "Differences of up to 1% are not claimed"),
        (PairedRatio(1.05, 1.03, 1.07, 20), "slower", "more than 5.0% cannot be told"),
        (PairedRatio(1.0, 0.9, 1.1, 20), "cannot tell", "A noisy machine"),
        (PairedRatio(0.95, 0.94, 0.96, 20), "faster", ""),
    ],
)
def test_what_is_said_of_an_interval(ratio: PairedRatio, answer: str, text: str) -> None:
    assert engine._answer(ratio) == answer
    assert any(text in note.text for note in engine._doubts(ratio, 0.05, False)) == bool(text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (("--fail-if-slower", "5%"), "--fail-if-slower needs something to compare with | add --against TARGET"),
        (("--against-with", "fast"), "--against-with 'fast' is no setting | it takes dtype=NAME"),
        (("--against-with", "amp=perhaps"), "'amp=perhaps' is no setting"),
        (("--against-with", "threads=0"), "no number of threads"),
        (("--against-with", "dtype=int3"), "int3"),
        (("--against-with", "device=cuda:9"), "cuda:9"),
        (("--against", NET, "--predict", "rtx4090"), "a prediction measures nothing"),
        (("--against", NET, "--fail-if-slower", "much"), "'much' is no share"),
        (("--against", f"{SAMPLES}:Nothing"), "Nothing"),
    ],
)
def test_wrong_questions_of_two(cli: CommandLine, line: tuple[str, ...], text: str) -> None:
    answer = cli("profile", NET, *BRIEF, *line)
    assert answer.code == 2
    assert text in said(answer)


@pytest.mark.zoo
def test_an_interruption_reports_the_pairs_so_far(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = engine.PreparedPass.seconds, []

    def seconds(self: Any, number: int) -> float:
        calls.append(number)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return real(self, number)

    monkeypatch.setattr(engine.PreparedPass, "seconds", seconds)
    answer = cli("profile", NET, "--against", NET, "--seconds", "30", "-f", "json")
    assert answer.code == 130
    found = json.loads(answer.out)
    assert found["interrupted"]
    assert any("Interrupted: fewer pairs" in note["text"] for note in found["notes"])
    assert torch.get_num_threads() >= 1


def side(name: str, median_s: float, setting: tuple[str, ...] = ("cpu", "1 thread")) -> TimedSide:
    return TimedSide(name, ("x: 8x3x224x224 float32",), setting, 8, 2 * median_s, median_s, (median_s,) * 8)


SCREENS = {
    "faster": AgainstResult(
        "forward pass", "faster", 0.5526, (0.4858, 0.6719), 9, 3.361, side("resnet18", 0.1312),
        side("resnet34", 0.2362), None, False, False, (),
    ),
    "slower": AgainstResult(
        "training step", "slower", 2.104, (2.051, 2.153), 118, 4.02, side("Net width=256", 0.002104),
        side("Net width=8", 0.001, ("cpu", "2 threads", "autocast", "channels last")), 0.05, True, False, (),
    ),
    "cannot-tell": AgainstResult(
        "forward pass", "cannot tell", 1.004, (0.9976, 1.021), 1011, 0.9483, side("Net", 6.6e-05),
        side("Net", 6.57e-05), 0.05, False, True, (Note("Interrupted: fewer pairs were taken.", Level.WARNING),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", SCREENS)
def test_screens(name: str, width: int, golden: Callable[[str, str], None]) -> None:
    text = RENDERERS["terminal"].render(SCREENS[name].report(), Style(width))
    assert max(map(len, text.splitlines())) <= width
    golden(f"terminal/profile-against.{name}.{width}.txt", text)
