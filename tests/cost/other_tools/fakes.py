"""Tools that misbehave, for children to ask: without torch (entries of a child), and with it (askers of a model)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelprobe.cost.other_tools.child import carry_out
from modelprobe.cost.other_tools.tool import ToolResult, plain_number

# Entries: the whole of a child


def _told(folder: str, act: Callable[[Mapping[str, Any]], Any]) -> None:
    carry_out(folder, lambda order: ToolResult(plain_number(act(order)), place="cpu"))


def prints(folder: str) -> None:
    def act(order):
        print("noise on stdout")
        print("noise on stderr", file=sys.stderr)
        os.write(1, b"noise past Python\n")
        os.write(2, b"noise past Python\n")
        subprocess.run([sys.executable, "-c", "print('noise of a child')"], check=True)
        assert sys.stdin.read() == ""
        return order["number"]

    _told(folder, act)


def numbers(folder: str) -> None:
    _told(folder, lambda order: order["number"])


def exits(folder: str) -> None:
    _told(folder, lambda order: sys.exit(3))


def raises(folder: str) -> None:
    def act(order):
        raise LookupError("two\nlines of \x1b[31mred")

    _told(folder, act)


def answers_nonsense(folder: str) -> None:
    _told(folder, lambda order: "4.1 GMac")


def answers_nan(folder: str) -> None:
    _told(folder, lambda order: float("nan"))


def dies(folder: str) -> None:
    os._exit(7)


def is_killed(folder: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_a_thread(folder: str) -> None:
    def act(order):
        threading.Thread(target=time.sleep, args=(60,)).start()
        return 1

    _told(folder, act)


def hangs(folder: str) -> None:
    """With a process of its own beside it, whose number it leaves in the order's `note`."""

    def act(order):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(order["note"]).write_text(f"{os.getpid()} {other.pid}")
        time.sleep(60)

    _told(folder, act)


# Askers: what `Tool.ask` is


def ruins(model, args, kwargs):
    """Patches torch, prints, leaves buffers and hooks, and leaves by `sys.exit`."""
    import torch

    print("ruined")
    torch.nn.Linear.forward = None
    torch.add = None
    torch.set_default_dtype(torch.float64)
    for module in model.modules():
        module.register_buffer("total_ops", torch.zeros(1))
        module.register_forward_hook(lambda *_: None)
    sys.exit(5)


def counts_bytes(model, args, kwargs):
    """Bytes of everything given to forward, by place or by name, on the CPU."""
    values = (*args, *kwargs.values())
    assert all(value.device.type == "cpu" for value in values)
    assert not model.training
    model(*args, **kwargs)
    return sum(value.numel() * value.element_size() for value in values)


def wants_real_values(model, args, kwargs):
    """Cannot do with meta tensors."""
    return 100 + 0 * float(next(model.parameters()).sum())
