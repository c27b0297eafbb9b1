"""What the child process does that asks one tool: build the target anew from the question, and ask."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from modelprobe.cost.peers.answer import Answer, checked
from modelprobe.cost.peers.child import carry_out
from modelprobe.cost.peers.peer import Ask
from modelprobe.model.build import Question, Subject, build, fuse

ENTRY = f"{__name__}:main"

META, CPU = "meta", "cpu"


def content(question: Question, ask: Ask, *, fused: bool, on_meta: bool) -> dict[str, Any]:
    """The order for a child, as plain values: the question and the function to ask, by name."""
    place = f"{ask.__module__}:{getattr(ask, '__qualname__', '')}"
    return {"question": asdict(question), "ask": place, "fused": fused, "on_meta": on_meta}


def main(folder: str) -> None:
    """Carry out the order in `folder`."""
    carry_out(folder, _answer)


def _answer(order: Mapping[str, Any]) -> Answer:
    question = Question(**order["question"])
    module, _, function = order["ask"].partition(":")
    ask: Ask = getattr(importlib.import_module(module), function)
    if question.device is not None:
        return _asked(question, ask, order["fused"])
    if order["on_meta"]:
        with suppress(Exception):  # the model asks for values, or the tool for a device: there is another way
            return _asked(replace(question, device=META), ask, order["fused"])
    return _asked(replace(question, device=CPU), ask, order["fused"])


def _asked(question: Question, ask: Ask, fused: bool) -> Answer:
    import torch

    from modelprobe.model.inputs.example import make_inputs

    subject = fuse(build(question)) if fused else build(question)
    place = _place(subject)
    example = make_inputs(
        subject.target,
        question.inputs,
        question.batch,
        question.dtype,
        question.inputs_from,
        model=subject.model,
    )
    args, kwargs = example.build(place, question.seed)
    torch.manual_seed(question.seed)
    return Answer(checked(ask(subject.model.eval(), args, kwargs)), place=place)


def _place(subject: Subject) -> str:
    """Where the weights are: an instance of the user's stays where it was made."""
    first = next(subject.model.parameters(), None)
    return str(first.device) if first is not None else str(subject.question.device)
