"""Files as honest programs write them: none is dangerous, at most 2 % are suspicious."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import gzip
import io
import ipaddress
import itertools
import json
import operator
import pathlib
import pickle
import random
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dateutil.tz
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from modelprobe.checkpoint.answers.scan import ScanResult, scan
from modelprobe.checkpoint.pickle.globals import Trust

ARCHITECTURES = (
    "resnet10t mobilenetv3_small_050 efficientnet_b0 convnext_atto regnetx_002 ghostnet_050 densenet121 "
    "mnasnet_small vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 pit_ti_224 "
    "levit_128s mobilevit_xxs edgenext_xx_small poolformer_s12 mixer_s16_224 resmlp_12_224 cait_xxs24_224 "
    "xcit_nano_12_p16_224 tnt_s_patch16_224 pvt_v2_b0 coat_lite_tiny fastvit_t8 repvgg_a0 dla34 hardcorenas_a "
    "spnasnet_100 tinynet_e lcnet_035"
).split()


def small(name: str) -> nn.Module:
    """The architecture, its weights as small as they can be."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2).half()


def lightning(model: nn.Module) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": model.state_dict(),
        "callbacks": {
            "ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "dirpath": "/data"}
        },
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "root": pathlib.PurePosixPath("/data")},
        "rng": random.Random(0).getstate(),
    }


def optimised(model: nn.Module) -> dict[str, Any]:
    head = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    head(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "args": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data")),
        "history": collections.defaultdict(list, loss=[0.1, 0.2]),
        "when": datetime.datetime(2024, 1, 2),
        "best": np.float64(0.5),
    }


FORMS: dict[str, Callable[[nn.Module, Path], None]] = {
    "state dict": lambda m, p: torch.save(m.state_dict(), p),
    "legacy": lambda m, p: torch.save(m.state_dict(), p, _use_new_zipfile_serialization=False),
    "whole": lambda m, p: torch.save(m, p),
    "whole, legacy": lambda m, p: torch.save(m, p, _use_new_zipfile_serialization=False),
    "Lightning": lambda m, p: torch.save(lightning(m), p),
    "training": lambda m, p: torch.save(optimised(m), p),
    "numpy": lambda m, p: np.savez(p, **{k: v.numpy() for k, v in m.state_dict().items()}),
    "compressed numpy": lambda m, p: np.savez_compressed(p, **{k: v.numpy() for k, v in m.state_dict().items()}),
    "pickle": lambda m, p: p.write_bytes(pickle.dumps({k: v.numpy() for k, v in m.state_dict().items()}, 2)),
    "gzipped pickle": lambda m, p: p.write_bytes(
        gzip.compress(pickle.dumps([v.detach().numpy() for v in m.parameters()], 4), 1)
    ),
}


def others(folder: Path) -> Iterator[Path]:
    """Files of other libraries, and of other kinds."""

    def put(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    joblib = pytest.importorskip("joblib")
    sklearn = pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = np.random.default_rng(0).random((30, 4)), np.arange(30) % 2
    models = [LogisticRegression(), RandomForestClassifier(3), make_pipeline(StandardScaler(), LogisticRegression())]
    for number, model in enumerate(models):
        fitted = model.fit(x, y)
        yield put(f"sklearn{number}.pkl", pickle.dumps(fitted))
        for compress in (0, 3, ("bz2", 3), ("xz", 3), ("lzma", 3), ("zlib", 3)):
            path = folder / f"{number}-{compress[0] if isinstance(compress, tuple) else compress}.joblib"
            joblib.dump(fitted, path, compress=compress)
            yield path
    assert sklearn
    yield put("arrays.pkl", pickle.dumps({"a": np.ones(3), "m": np.ma.masked_array([1, 2], [0, 1]), "r": x}))
    yield put("random.pkl", pickle.dumps([random.Random(1), np.random.default_rng(0), np.random.RandomState(0)]))
    yield put(
        "partial.pkl", pickle.dumps({"norm": functools.partial(nn.LayerNorm, eps=1e-6), "act": nn.functional.gelu})
    )
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear}, dtype=torch.qint8)
    torch.save(quantised, folder / "quantised.pth")
    torch.save(quantised.state_dict(), folder / "quantised_state.pth")
    yield folder / "quantised.pth"
    yield folder / "quantised_state.pth"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.jit.script(net).save(str(folder / "script.pt"))
    torch.jit.trace(net, torch.ones(1, 3, 8, 8)).save(str(folder / "trace.pt"))
    yield folder / "script.pt"
    yield folder / "trace.pt"
    buffer = io.BytesIO()
    torch.save({"policy.weight": torch.ones(2)}, buffer)
    with zipfile.ZipFile(folder / "sb3.zip", "w") as archive:
        archive.writestr("data", json.dumps({"gamma": 0.99, "n_envs": 1, "seed": None}))
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("_stable_baselines3_version", "2.3.0")
    yield folder / "sb3.zip"
    source = (
        b'class Sequential(Module):\n    r"""A container.\n    """\n\n    def forward(self, x):\n        return x\n'
    )
    yield put("python2.pth", pickle.dumps({"source": source, "name": "x"}, 2))
    yield put("config.json", json.dumps({"hidden": 3, "hash": "0676ba61" * 8}).encode())
    yield put("README.md", b"# Weights\n\nTrained on images. i am a text with c letters\n")
    yield put("labels.txt", "\n".join(f"class {n}" for n in range(1000)).encode())


def verdict(found: ScanResult) -> str:
    return f"{found.path}: {[(one.name, one.reason) for one in found.imports if one.trust in BAD]} {found.problems}"


BAD = (Trust.SUSPICIOUS, Trust.DANGEROUS)


def judged_all(paths: Iterator[Path]) -> tuple[int, list[str], list[str]]:
    """How many, and what is said of those that are dangerous, and suspicious."""
    count, dangerous, suspicious = 0, [], []
    for path in paths:
        found = scan(path)
        count += 1
        if found.worst in BAD:
            (dangerous if found.dangerous else suspicious).append(verdict(found))
        path.unlink()
    return count, dangerous, suspicious


def forms(names: list[str], folder: Path) -> Iterator[Path]:
    for name in names:
        model = small(name)
        for form, save in FORMS.items():
            path = folder / f"{name}.{form}.npz"
            save(model, path)
            yield path


@pytest.mark.zoo
def test_a_few(tmp_path: Path) -> None:
    assert judged_all(others(tmp_path))[1:] == ([], [])
    assert judged_all(forms(["resnet10t", "pit_ti_224"], tmp_path))[1:] == ([], [])


REAL = sorted((Path(__file__).parent / "real").iterdir())
"""Files that libraries wrote (their tensors set to zero, packed with xz): see the names."""


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_files_of_real_libraries(path: Path) -> None:
    found = scan(path)
    assert found.worst in (Trust.HARMLESS, Trust.UNKNOWN), verdict(found)
    assert found.pickles or path.name in ("h5py.h5.xz", "sklearn.skops.xz")


class Outer:
    class Inner:
        pass

    class Kind(enum.Enum):
        ONE = 1


def test_tables_dates_and_classes_in_classes_of_every_protocol(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1], "when": pd.to_datetime(["2020-01-01"]), "kind": pd.Categorical(["x"])})
    value = {
        "frame": frame,
        "moment": [pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta(1), pd.NaT, pd.date_range("2020", periods=3)],
        "zone": pd.date_range("2020", periods=3, tz="Europe/Berlin"),
        "inner": [Outer.Inner(), Outer.Kind.ONE],
        "numpy": [np.matrix([[1]]), np.polynomial.Polynomial([1, 2]), np.poly1d([1])],
        "zones of dateutil": [dateutil.tz.tzutc(), dateutil.tz.tzlocal(), dateutil.tz.gettz("Europe/Berlin")],
        "sampling": [RandomSampler(range(3)), BatchSampler(SequentialSampler(range(3)), 2, drop_last=False)],
        "python": [time.gmtime(0), operator.itemgetter("x"), ipaddress.ip_address("1.2.3.4"), type(None)],
    }
    for protocol in range(6):
        for name, part in value.items():
            (tmp_path / "m.pkl").write_bytes(pickle.dumps(part, protocol))
            found = scan(tmp_path / "m.pkl")
            assert found.worst in (Trust.HARMLESS, Trust.UNKNOWN), f"{name}, protocol {protocol}: {verdict(found)}"


@pytest.mark.zoo
def test_generators_jagged_tensors_distributions_and_maps(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    jagged = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    for name, value in {"generator": torch.Generator(), "jagged": jagged}.items():
        torch.save({"x": value}, tmp_path / "m.pth")
        assert scan(tmp_path / "m.pth").worst is Trust.HARMLESS, name
    values = {
        "frozen": [stats.randint(1, 5), stats.norm(0, 1)],
        "memmap": np.memmap(tmp_path / "x", dtype="f4", mode="w+", shape=(3,)),
        "records": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        "counters": [itertools.count(3), itertools.repeat(1)],
    }
    for name, value in values.items():
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(value))
        found = scan(tmp_path / "m.pkl")
        assert found.worst in (Trust.HARMLESS, Trust.UNKNOWN), f"{name}: {verdict(found)}"


@pytest.mark.zoo
@pytest.mark.parametrize(
    "names", [ARCHITECTURES[::8], pytest.param(ARCHITECTURES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_thirty_architectures_in_every_form(tmp_path: Path, names: Sequence[str]) -> None:
    count, dangerous, suspicious = judged_all(forms(names, tmp_path))
    print(f"\n{count} benign files: {len(dangerous)} dangerous, {len(suspicious)} suspicious")
    assert dangerous == []
    assert len(suspicious) <= 0.02 * count, suspicious
