"""Several processes for one run, through Hugging Face accelerate: started here, or by ``accelerate launch`` or ``torchrun``."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch import Tensor

T = TypeVar("T")
Report = Callable[..., None]
"""Receives the progress reports of a process."""


class Processes:
    """The processes of this run, one of them this one. Made by :func:`join`.

    Attributes:
        rank: number of this process, from 0; process 0 writes the files.
        size: number of processes.
        device: where this process computes.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self.rank: int = state.process_index
        self.size: int = state.num_processes
        self.device: str = "cpu" if state.device.type == "cpu" else str(state.device)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same on each."""
        from accelerate.utils import reduce

        return reduce(tensor, "sum")  # pyright: ignore[reportReturnType]

    def first(self, make: Callable[[], T]) -> T:
        """``make()`` on process 0, then on the others: what it downloads or caches is there for them."""
        with self._state.main_process_first():
            return make()

    def wait(self) -> None:
        """Wait for all processes."""
        self._state.wait_for_everyone()

    def agree(self, step: int) -> None:
        """Raises ValueError when the processes are not all at ``step``: they did not read the same checkpoint."""
        import torch

        steps = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        steps[self.rank] = step
        found = self.sum(steps).tolist()
        if len(set(found)) > 1:
            raise ValueError(
                f"the processes resumed at steps {', '.join(map(str, found))}; "
                "put the output on a file system that all of them share"
            )


def launched() -> int:
    """Number of processes that a launcher (accelerate, torchrun, :func:`launch`) has started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_accelerate() -> None:
    """Raises ImportError with the command that installs accelerate."""
    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ImportError("several processes need accelerate; pip install 'flow-matching-bench[distributed]'") from None


def join(device: str) -> Processes | None:
    """Connect to the other processes that the launcher started; None when there is only this one.

    gloo connects processes on the CPU, NCCL those with a GPU each. Raises ImportError without accelerate.
    """
    if launched() == 1:
        return None
    require_accelerate()
    from accelerate import PartialState

    return Processes(PartialState(cpu=device == "cpu"))


def launch(work: Callable[..., Any], count: int, device: str, report: Report | None = None) -> None:
    """Run ``work(report=...)`` in ``count`` new processes of this machine; it must be picklable, and call :func:`join`.

    What the processes report is passed on to ``report``. On the CPU the threads are shared out. When one process fails or dies, or this
    one is interrupted, all are stopped.

    Raises ImportError without accelerate, ValueError for more processes than GPUs, the error of a process that failed (ValueError and
    OSError as they are, others as RuntimeError), RuntimeError when one died.
    """
    import torch
    from torch.multiprocessing import get_context

    require_accelerate()
    if device != "cpu" and count > torch.cuda.device_count():
        raise ValueError(
            f"{count} processes need {count} GPUs, this machine has {torch.cuda.device_count()}; lower processes or use device cpu"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, torch.get_num_threads() // count)
    context = get_context("spawn")
    workers, pipes = [], []
    try:
        for rank in range(count):
            here, there = context.Pipe(duplex=False)
            worker = context.Process(target=_worker, args=(rank, count, port, threads, there, work), daemon=True)
            worker.start()
            there.close()  # the end of the worker is then the end of the pipe
            workers.append(worker)
            pipes.append(here)
        _supervise(workers, pipes, report)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _supervise(workers: list[BaseProcess], pipes: list[Connection], report: Report | None) -> None:
    """Pass reports on until all have ended; raise the first error."""
    ranks = {pipe: rank for rank, pipe in enumerate(pipes)}
    while ranks:
        for pipe in wait(list(ranks)):
            assert isinstance(pipe, Connection)
            try:
                news = pipe.recv()
            except EOFError:
                rank = ranks.pop(pipe)
                workers[rank].join()
                if workers[rank].exitcode:
                    code = workers[rank].exitcode
                    raise RuntimeError(f"process {rank} of {len(workers)} died with exit code {code}") from None
                continue
            if isinstance(news, Exception):
                _raise(news, workers)
            elif report is not None:
                report(*news)


def _raise(error: Exception, workers: list[BaseProcess]) -> None:
    """Raise an error, or the death of another process that it only tells of."""
    if isinstance(error, RuntimeError):
        for rank, worker in enumerate(workers):
            worker.join(0.5)
            if worker.exitcode is not None and worker.exitcode < 0:
                raise RuntimeError(f"process {rank} of {len(workers)} died with exit code {worker.exitcode}")
    raise error


def _worker(rank: int, count: int, port: int, threads: int, pipe: Connection, work: Callable[..., Any]) -> None:
    """One process: the environment a launcher makes, then the work."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and stops this one
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS=str(threads),
    )
    torch.set_num_threads(threads)
    try:
        work(report=lambda *news: pipe.send(news))
    except Exception as error:
        known = isinstance(error, (ValueError, OSError))
        told = error if known else RuntimeError(f"{type(error).__name__}: {error}")
        told.add_note("".join(traceback.format_exception(error)))  # a traceback does not travel between processes
        pipe.send(told)
        return
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
