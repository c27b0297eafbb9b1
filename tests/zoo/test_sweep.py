"""`sweep`: rows, shards, what is refused; kills of a worker and of the whole process; a real local Dask cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelprobe.zoo.sweep import sweep_targets
from tests.command_line import SAMPLES, CommandLine, said

TARGETS = [f"{SAMPLES}:{name}" for name in ("TinyCNN", "TinyAttention", "Shared", "Broken", "Unused")]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "models.txt"
    path.write_text("# a comment\n\n" + "\n".join(TARGETS) + "\n", encoding="utf-8")
    return path


@pytest.mark.zoo
def test_one_failure_costs_one_row(cli: CommandLine, listed: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    answer = cli("sweep", str(listed), "--rows", str(rows), "--workers", "2", "-f", "json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert [row["target"] for row in found["rows"]] == TARGETS
    assert [bool(row["problem"]) for row in found["rows"]] == [False, False, False, True, False]
    flops = json.loads(cli("flops", TARGETS[0], "-f", "json").out)
    assert all(found["rows"][0][key] == flops[key] for key in ("parameters", "macs", "flops", "activations"))
    before = rows.read_bytes()
    again = json.loads(cli("sweep", str(listed), "--rows", str(rows), "-f", "json").out)
    assert (again["resumed"], rows.read_bytes()) == (5, before)
    retried = json.loads(cli("sweep", str(listed), "--rows", str(rows), "--retry-failed", "-f", "json").out)
    assert (retried["resumed"], retried["failed"]) == (4, 1)


@pytest.mark.zoo
@pytest.mark.parametrize("what", ["flops", "memory"])
def test_rows_name_what_depends_on_the_data(cli: CommandLine, tmp_path: Path, what: str) -> None:
    """As `flops` and `memory` of that model do; also after the rows were read from a file."""
    routed, plain = f"{SAMPLES}:TinyExperts", f"{SAMPLES}:Shared"
    listed, rows = tmp_path / "models.txt", ("--rows", str(tmp_path / "rows.jsonl"))
    listed.write_text(f"{routed}\n{plain}\n", encoding="utf-8")
    texts = {note["text"] for note in json.loads(cli(what, routed, "-f", "json").out)["notes"]}
    for resumed in (0, 2):
        answer = cli("sweep", str(listed), "--what", what, *rows, "-f", "json", "--strict", "--workers", "1")
        assert answer.code == 3
        assert "the first: " in answer.err
        found = json.loads(answer.out)
        assert found["resumed"] == resumed
        (note,) = [note for note in found["rows"][0]["notes"] if note.get("kind") == "data-dependent"]
        assert note["text"].endswith("What it costs may depend on the data.")
        assert note["text"] in texts
        assert {"level": "warning", "text": f"the cost may depend on the data: {routed}."} in found["notes"]
        assert [note["level"] for note in found["rows"][1]["notes"]] == ["assumed"]  # its input


@pytest.mark.zoo
def test_exit_codes_of_failed_rows(cli: CommandLine, tmp_path: Path) -> None:
    """One failure is a row, under --strict a hole in the answer; nothing but failures is no answer."""
    listed, rows = tmp_path / "models.txt", tmp_path / "rows.jsonl"
    listed.write_text(f"{SAMPLES}:Broken\ntorchvision:resnet18\n", encoding="utf-8")
    common = ("--rows", str(rows), "--workers", "1")
    assert cli("sweep", str(listed), *common).code == 0
    strict = cli("sweep", str(listed), *common, "--strict")
    assert (strict.code, "the first: 1 of 2 failed." in strict.err) == (3, True)
    alone = cli("sweep", f"{SAMPLES}:Broken", *common)
    assert alone.code == 2
    assert "1 of 1 failed." in alone.out
    assert "error: none of 1 models could be answered; the first: Broken did not run" in alone.err


@pytest.mark.zoo
def test_shards_are_all_of_it(cli: CommandLine, listed: Path) -> None:
    parts = [
        json.loads(cli("sweep", str(listed), "--what", "params", "--shard", f"{part}/2", "-f", "json").out)["rows"]
        for part in (1, 2)
    ]
    assert sorted(row["target"] for rows in parts for row in rows) == sorted(TARGETS)


@pytest.mark.zoo
def test_tables_and_plots(cli: CommandLine, tmp_path: Path) -> None:
    table, plot = tmp_path / "timm.csv", tmp_path / "sweep.png"
    assert cli("sweep", "timm:test_vit", "--timm-csv", str(table), "--plot", str(plot)).code == 0
    head, row = table.read_text(encoding="utf-8").splitlines()
    assert head == "model,infer_gmacs,infer_macts,infer_img_size,param_count"
    assert row.startswith("test_vit,0.0")
    assert row.endswith(",160,0.37")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_what_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"schema": "modelprobe.sweep/1", "what": "params"}\n', encoding="utf-8")
    assert "holds rows of something else (what 'params', not 'flops', " in said(
        cli("sweep", TARGETS[0], "--rows", str(rows))
    )
    assert "no model matches 'resnet5x' | nearest: resnet50" in said(cli("sweep", "resnet5x"))
    assert "--shard '3/2' is not I/N" in said(cli("sweep", "resnet18", "--shard", "3/2"))
    assert "--executor smoke://x is not known" in said(cli("sweep", "resnet18", "--executor", "smoke://x"))
    assert "there is no file models.txt" in said(cli("sweep", "models.txt"))
    assert "no model matches 'timm:resnet5x*' | nearest: resnet50" in said(cli("sweep", "timm:resnet5x*"))
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n", encoding="utf-8")
    assert "lists no model" in said(cli("sweep", str(empty)))


def test_a_pattern_of_one_zoo() -> None:
    assert sweep_targets(["torchvision:squeezenet*"]) == ["torchvision:squeezenet1_0", "torchvision:squeezenet1_1"]
    both = sweep_targets(["vgg11"])
    assert set(both) == set(sweep_targets(["torchvision:vgg11*", "timm:vgg11*"]))
    assert sweep_targets(["timm:vgg11"]) == ["timm:vgg11"]


@pytest.mark.zoo
def test_times_of_many_models(cli: CommandLine, tmp_path: Path) -> None:
    table, rows = tmp_path / "timm.csv", tmp_path / "rows.jsonl"
    line = ("sweep", "timm:test_vit", TARGETS[0], "--what", "profile", "--batch", "2", "--rows", str(rows))
    found = json.loads(cli(*line, "--timm-csv", str(table), "-f", "json").out)
    assert found["workers"] == 1  # a second one would take time from the first
    for row in found["rows"]:
        assert row["median_s"] > 0
        assert row["per_second"] == pytest.approx(2 / row["median_s"])
        assert (row["macs"] > 0, row["input"][0][0]) == (True, 2)
    head, first, _ = table.read_text(encoding="utf-8").splitlines()
    assert head.startswith("model,infer_samples_per_sec,infer_step_time,infer_gmacs")
    assert float(first.split(",")[2]) == pytest.approx(1000 * found["rows"][0]["median_s"], abs=1e-3)
    again = json.loads(cli(*line, "-f", "json", "--workers", "2").out)
    assert (again["resumed"], again["rows"]) == (2, found["rows"])
    assert any("took time from each other" in note["text"] for note in again["notes"])
    other = json.loads(cli("sweep", TARGETS[2], *line[3:], "-f", "json").out)
    assert (other["others"], len(other["rows"])) == (2, 1)
    assert f"{rows} also holds rows of 2 other models." in [note["text"] for note in other["notes"]]


@pytest.mark.zoo
def test_an_unreachable_scheduler_is_a_line(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("modelprobe.zoo.executors.CONNECT_SECONDS", 1)
    assert "no dask cluster answers at 127.0.0.1:9" in said(
        cli("sweep", TARGETS[0], "--executor", "dask://127.0.0.1:9")
    )


def children_of(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes to kill through /proc")
def test_kills_lose_and_repeat_no_row(tmp_path: Path) -> None:
    """The whole process is killed three times, and a worker each time before; then the sweep ends."""
    rows, list_file = tmp_path / "rows.jsonl", tmp_path / "models.txt"
    names = [
        f"timm:{name}" for name in ("test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_byobnet")
    ]
    targets = [f"torchvision:resnet{depth}" for depth in (18, 34, 50, 101, 152)] + names
    list_file.write_text("\n".join(targets), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "modelprobe",
        "sweep",
        str(list_file),
        "--rows",
        str(rows),
        "--workers",
        "2",
        "-f",
        "json",
    ]
    killed_workers = 0
    for kept in (1, 4, 7):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if rows.exists() and rows.read_bytes().count(b"\n") - 1 >= kept:
                break
            time.sleep(0.02)
        workers = children_of(process.pid)
        for worker in workers[:1]:
            os.kill(worker, signal.SIGKILL)
            killed_workers += 1
        process.kill()
        process.wait()
        for _ in range(100):  # the workers notice that nobody asks any more
            if not [w for w in workers if Path(f"/proc/{w}").exists()]:
                break
            time.sleep(0.1)
        else:
            pytest.fail("a worker outlived its sweep")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [row["target"] for row in found["rows"]] == targets
    assert found["failed"] == 0
    held = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()[1:]]
    assert sorted(row["target"] for row in held) == sorted(targets)
    assert killed_workers


@pytest.mark.slow
def test_a_real_local_dask_cluster_gives_the_same_rows(cli: CommandLine, listed: Path) -> None:
    """Two workers in processes of their own; one is killed while the sweep runs."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_class=distributed.Nanny
    ) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        victim = cluster.workers[0].process.pid
        import threading

        threading.Timer(1.0, lambda: os.kill(victim, signal.SIGKILL)).start()
        clustered = json.loads(cli("sweep", str(listed), "--executor", f"dask://{address}", "-f", "json").out)
    pooled = json.loads(cli("sweep", str(listed), "-f", "json").out)
    for row in (*clustered["rows"], *pooled["rows"]):
        row.pop("seconds")
    assert clustered["rows"] == pooled["rows"]


@pytest.mark.slow
def test_a_real_local_ray_gives_the_same_rows(cli: CommandLine, listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one node that the test starts; its workers are processes of their own."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        clustered = json.loads(cli("sweep", str(listed), "--executor", "ray://auto", "-f", "json").out)
    finally:
        cluster.shutdown()
    pooled = json.loads(cli("sweep", str(listed), "-f", "json").out)
    for row in (*clustered["rows"], *pooled["rows"]):
        row.pop("seconds")
    assert clustered["rows"] == pooled["rows"]


@pytest.mark.zoo
def test_other_questions(cli: CommandLine, tmp_path: Path) -> None:
    """Memory as `memory` says it; of parameters alone no input is shown, not even that of a single number."""
    (tmp_path / "list").write_text("resnet18\n")
    (row,) = json.loads(cli("sweep", str(tmp_path / "list"), "--what", "memory", "-f", "json").out)["rows"]
    assert row["memory"] == json.loads(cli("memory", "resnet18", "-f", "json").out)["peak_bytes"]
    (row,) = json.loads(cli("sweep", str(tmp_path / "list"), "--what", "params", "-f", "json").out)["rows"]
    assert (row["parameters"], row["macs"], row["memory"]) == (11_689_512, None, None)
    assert "scalar" not in cli("sweep", str(tmp_path / "list"), "--what", "params", "-o", str(tmp_path / "a.html")).out
    assert "scalar" not in (tmp_path / "a.html").read_text()
