"""Who runs the jobs of a sweep: worker processes here, or an engine for many machines behind a small adapter.

How to add an engine: a function from jobs and limits to answers, and its line in `EXECUTORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from modelprobe.errors import BadInput, one_line
from modelprobe.zoo.workers import Job, JobAnswer, JobLimits, answer_here, run_jobs

CONNECT_SECONDS = 10
RETRIES = 3
"""How often a job is given to another machine when the one that had it dies."""

Runner: TypeAlias = "Callable[[Iterable[Job], JobLimits], Iterator[JobAnswer]]"


def _dask(address: str) -> Runner:
    """Dask's scheduler at `tcp://address`."""
    distributed = _engine("distributed", "dask")
    try:
        client = distributed.Client(f"tcp://{address}", timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise _unreachable("dask", address, error) from error

    def run(jobs: Iterable[Job], limits: JobLimits) -> Iterator[JobAnswer]:
        futures = {client.submit(answer_here, job, limits, pure=False, retries=RETRIES): job for job in jobs}
        try:
            for future in distributed.as_completed(futures):
                job = futures[future]
                error = future.exception()
                yield future.result() if error is None else JobAnswer(job.key, None, one_line(error), 0.0)
        finally:
            client.cancel(list(futures))
            client.close()

    return run


def _ray(address: str) -> Runner:
    """Ray's cluster at `address`; `auto` is the one that runs here."""
    ray = _engine("ray", "ray")
    try:
        ray.init(address=address if address == "auto" else f"ray://{address}", log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable("ray", address, error) from error
    remote = ray.remote(max_retries=RETRIES)(answer_here)

    def run(jobs: Iterable[Job], limits: JobLimits) -> Iterator[JobAnswer]:
        waiting = {remote.remote(job, limits): job for job in jobs}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting))
                for reference in done:
                    job = waiting.pop(reference)
                    try:
                        yield ray.get(reference)
                    except ray.exceptions.RayError as error:
                        yield JobAnswer(job.key, None, one_line(error), 0.0)
        finally:
            ray.shutdown()

    return run


EXECUTORS: dict[str, Callable[[str], Runner]] = {"dask": _dask, "ray": _ray}


def executor_of(address: str, workers: int) -> Runner:
    """What runs the jobs: "" are `workers` processes here. Raises BadInput where an engine cannot be reached."""
    if not address:
        return lambda jobs, limits: run_jobs(jobs, workers, limits)
    scheme, separator, place = address.partition("://")
    if not separator or scheme not in EXECUTORS or not place:
        raise BadInput(f"--executor {address} is not known", "dask://HOST:PORT, ray://HOST:PORT or ray://auto")
    return EXECUTORS[scheme](place)


def _engine(package: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise BadInput(f"{package} is not installed", f"pip install 'modelprobe[{extra}]'") from error


def _unreachable(engine: str, address: str, error: BaseException) -> BadInput:
    return BadInput(
        f"no {engine} cluster answers at {address}: {one_line(error)}", "check the address, or leave it out"
    )
