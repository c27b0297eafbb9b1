"""B in another Python, such as one with another release of torch: A is recorded here, B is run and judged there.

Both processes share a private folder. What A put out lies in it as plain bytes. Whenever a suspect is to be looked
into, the other Python asks for A's operands there by a line on its stdout, and waits for one on its stdin.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelprobe import errors
from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.inside.divergence.find import RecordedRun, judged_against, recorded_run
from modelprobe.inside.divergence.judge import Call, CapturedCall
from modelprobe.inside.divergence.result import DivergenceResult
from modelprobe.inside.divergence.spill import ValueStore
from modelprobe.inside.divergence.watched_run import RunSide
from modelprobe.model.build import TargetRequest
from modelprobe.report.blocks import Note

RUN_OF_A, VALUES_OF_A, ANSWER, CAPTURED = "a.pt", "a.values", "answer.pt", "captured.pt"

_START = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location("modelprobe", {init!r}, submodule_search_locations=[{folder!r}])
sys.modules["modelprobe"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["modelprobe"])
from modelprobe.inside.divergence.other_python import serve
serve({place!r})
"""
"""This very modelprobe, and nothing else of what is installed here."""


@dataclass(frozen=True)
class OtherSide:
    """B as the other Python builds it: `state` are its weights, `run` what it is given, without the model."""

    request: TargetRequest
    state: Mapping[str, Tensor]
    run: RunSide
    device: str


def diverge_in(
    python: str, a: RunSide, b: OtherSide, names: tuple[str, str], notes: Sequence[Note]
) -> tuple[DivergenceResult, dict[str, str]]:
    """Compare A with B in the Python at that path; also the versions there.

    Raises BadInput for what is no Python, or lacks a package; what stands in B's way there, as here.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelprobe-")))
        first = recorded_run(a, stack.enter_context(ValueStore(place / VALUES_OF_A)))
        torch.save({**_plain_run(first), "b": b, "names": names, "notes": tuple(notes)}, place / RUN_OF_A)
        _answer_requests(python, first, place)
        answer = torch.load(place / ANSWER, weights_only=False)  # our own, from a folder that is ours alone
    if "error" in answer:
        kind, message, hint = answer["error"]
        raise getattr(errors, kind)(f"{python}: {message}", hint)
    return answer["result"], answer["versions"]


def _plain_run(run: RecordedRun) -> dict[str, Any]:
    """A recorded run without its model; functions of operators by name."""
    calls = {
        number: (str(call.func), call.args, call.kwargs, call.constants)
        for number, call in run.calls.items()
        if isinstance(call.func, torch._ops.OpOverload)
    }
    return {
        "ops": run.ops, "calls": calls, "places": run.store.places(), "written": run.store.written,
        "outputs": run.outputs, "makers": run.makers, "raised": run.raised.message if run.raised else None,
        "torch": torch.__version__,
    }  # fmt: skip


def _answer_requests(python: str, first: RecordedRun, place: Path) -> None:
    """Run the other Python to its end, and give it what it asks of A."""
    folder = Path(__file__).parents[2]
    code = _START.format(init=str(folder / "__init__.py"), folder=str(folder), place=str(place))
    try:
        process = subprocess.Popen(
            [python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
    except OSError as error:
        hint = "name the Python of an environment: env/bin/python"
        raise BadInput(f"{python} cannot be run: {error.strerror}", hint) from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        for line in process.stdout:
            caught = first.capture(int(line))
            torch.save(caught and replace(caught, func=None), place / CAPTURED)  # a function cannot be saved
            process.stdin.write("\n")
            process.stdin.flush()
        code_of_end = process.wait()
        reader.join(timeout=5)
    finally:
        process.kill()
        process.wait()
    if not (place / ANSWER).exists():
        raise _no_answer(python, said, code_of_end)


def _no_answer(python: str, said: Sequence[str], code: int) -> BadInput:
    last = next((line.strip() for line in reversed(said) if line.strip()), f"it ended with exit code {code}")
    lacks = last.partition("No module named ")[2].strip("'\"")
    if lacks:
        needs = "modelprobe itself need not be there, but what it needs: torch, typer, rich, platformdirs"
        return BadInput(f"{python} has no {lacks}", f"install it there; {needs}")
    return BadInput(f"{python} gave no answer: {last}", "it has to be Python 3.11 or newer, with torch 2.6 or newer")


def serve(place: str) -> None:
    """What runs in the other Python: builds B, compares, and leaves the answer in the folder."""
    requests = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed
    folder = Path(place)
    answer: dict[str, Any]
    try:
        answer = _compared(folder, requests)
    except ProbeError as error:
        answer = {"error": (type(error).__name__, error.message, error.hint)}
    except (AttributeError, ImportError, RuntimeError) as error:  # what this torch has not, or does otherwise
        answer = {"error": ("BadInput", one_line(error), "")}
    torch.save(answer, folder / "answer.part")
    (folder / "answer.part").rename(folder / ANSWER)


def _compared(folder: Path, requests: Any) -> dict[str, Any]:
    given = torch.load(folder / RUN_OF_A, map_location="cpu", weights_only=False)
    names = tuple(
        f"{name.removesuffix(' (A)').removesuffix(' (B)')} (torch {version})"
        for name, version in zip(given["names"], (given["torch"], torch.__version__), strict=True)
    )
    side = _built(given["b"])
    with ValueStore.opened(folder / VALUES_OF_A, given["places"], given["written"]) as store:
        raised = ModelRaised(given["raised"]) if given["raised"] is not None else None
        calls = {number: call for number, plain in given["calls"].items() if (call := _call(*plain)) is not None}
        first = _RunElsewhere(
            None, given["ops"], store, calls, given["outputs"], given["makers"], raised, folder, requests, _lines()
        )
        result = judged_against(first, side, (names[0], names[1]), given["notes"])
    return {"result": result, "versions": {"python": sys.version.split()[0], "torch": torch.__version__}}


def _lines() -> queue.SimpleQueue[str]:
    """What comes in on stdin. When that closes, whoever asked is gone, and so is this process."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return lines


def _call(name: str, args: Any, kwargs: Any, constants: list[Tensor | None]) -> Call | None:
    """The call of `aten.add.Tensor` and its like with this torch's operator; None where it has none of that name."""
    func: Any = torch.ops
    for part in name.split("."):
        func = getattr(func, part, None)
    return Call(func, args, kwargs, constants) if func is not None else None


def _built(b: OtherSide) -> RunSide:
    from modelprobe.inside.divergence.of_targets import in_dtype
    from modelprobe.model.build import load_model

    model = in_dtype(load_model(b.request))
    try:
        model.load_state_dict(b.state)
    except RuntimeError as error:
        raise BadInput(
            f"{b.request.target} has other weights there: {one_line(error)}",
            "releases of its library differ; compare a network of your own, or a weight file with --arch",
        ) from error
    return replace(b.run, model=model.to(b.device))


@dataclass
class _RunElsewhere(RecordedRun):
    """A run that was recorded by the process that waits for this one."""

    folder: Path = Path()
    requests: Any = None
    replies: Any = None

    def capture(self, at: int) -> CapturedCall | None:
        self.requests.write(f"{at}\n")
        self.requests.flush()
        self.replies.get()
        found: CapturedCall | None = torch.load(self.folder / CAPTURED, map_location="cpu", weights_only=False)
        return found
