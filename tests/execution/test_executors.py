"""Orders are carried out alike here and in processes, and however a process ends, it ends in one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmbench.execution.executor import Done, Here
from fmbench.execution.local import executor
from fmbench.execution.processes import Processes, death


def double(order, report):
    report("doubling", order)
    return 2 * order


def process(order, report):
    return os.getpid()


def threads(order, report):
    import torch

    return torch.get_num_threads()


def fail(order, report):
    if order == "refuse":
        raise ValueError("not this one")
    if order == "missing":
        raise FileNotFoundError("no such thing")
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "exit":
        os._exit(3)
    if order == "disk":
        raise OSError("the disk is full")
    if order == "bug":
        raise TypeError("a bug")
    if order == "stop":
        raise KeyboardInterrupt
    if order == "object":
        return object()
    return order


def wait(order, report):
    """Works until it is interrupted, and cleans up then."""
    place = Path(order)
    place.write_text(str(os.getpid()))
    try:
        report(order)
        time.sleep(60)
    finally:
        place.unlink()


def say(order, report):
    logging.getLogger("fmbench").debug("said in a process")


def gone(pid, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def pool():
    with Processes(2) as found:
        yield found


@pytest.mark.parametrize("make", [Here, lambda: Processes(2)], ids=["here", "processes"])
def test_orders_come_back_in_their_order_from_everywhere(make):
    orders, reports, counts = [3, [1], "x", 0.1], [], []
    with make() as place:
        found = place.map(double, orders, lambda *news: reports.append(news), counts.append)
        assert place.map(double, []) == []
    assert found == [Done(6), Done([1, 1]), Done("xx"), Done(0.2)]
    assert sorted(map(str, reports)) == sorted(str(("doubling", order)) for order in orders)
    assert counts == [1, 2, 3, 4]


@pytest.mark.slow
def test_as_many_processes_as_workers_none_of_them_this_one(pool):
    pids = {done.value for done in pool.map(process, range(8))}
    assert os.getpid() not in pids
    assert pids == {worker.process.pid for worker in pool._workers}
    assert len(pool._workers) == 2
    assert {done.value for done in Here().map(process, range(2))} == {os.getpid()}


@pytest.mark.slow
def test_what_is_refused_and_who_dies_is_one_line_and_the_others_go_on(pool):
    found = pool.map(fail, ["a", "refuse", "kill", "missing", "exit", "b"])
    assert [done.value for done in found] == ["a", None, None, None, None, "b"]
    assert [done.died for done in found] == [False, False, True, False, True, False]
    assert found[1].error == "ValueError: not this one"
    assert found[2].error.startswith("its process was killed (SIGKILL), most often because memory ran out")
    assert found[4].error == "its process ended with exit code 3"
    assert pool.map(double, [1]) == [Done(2)]
    here = Here().map(fail, ["a", "refuse", "missing"])
    assert here == [found[0], found[1], found[3]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "kind", "words"),
    [
        ("disk", OSError, "the disk is full"),
        ("bug", RuntimeError, "TypeError: a bug"),
        ("object", RuntimeError, "not JSON serializable"),
        ("stop", KeyboardInterrupt, None),
    ],
)
def test_what_ends_a_run_ends_all_its_processes(order, kind, words, pool):
    pids = [done.value for done in pool.map(process, range(4))]
    with pytest.raises(kind, match=words) as caught:
        pool.map(fail, ["a", order, "b"])
    assert "\n" not in str(caught.value)
    assert all(map(gone, pids))


@pytest.mark.slow
def test_an_interrupt_reaches_orders_at_work_which_clean_up(pool, tmp_path):
    places, begun = [str(tmp_path / name) for name in "ab"], {}

    def interrupt(place):
        begun[place] = int(Path(place).read_text())
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.map(wait, places, interrupt)
    assert all(map(gone, begun.values()))
    assert not list(tmp_path.iterdir())


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_executors import wait, Processes\n"
        f"with Processes(2) as pool: pool.map(wait, [{str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while len([p for p in tmp_path.iterdir() if p.read_text()]) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    assert len(pids) == 2
    assert all(map(gone, pids))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_has_the_threads_that_it_is_given():
    with Processes(1, threads=1) as pool:
        assert pool.map(threads, [0]) == [Done(1)]


def test_what_is_logged_for_debugging_arrives(caplog):
    caplog.set_level(logging.DEBUG, "fmbench")
    with Processes(1) as pool:
        pool.map(say, [0])
    assert "said in a process" in caplog.text


def test_a_machine_that_cannot_start_a_process_says_so(pool, monkeypatch):
    monkeypatch.setattr("fmbench.execution.processes._START", "raise SystemExit(7)")
    with pytest.raises(RuntimeError, match="could not be started: its process ended with exit code 7; --workers 1"):
        pool.map(double, [1])


def test_executors_by_number():
    assert isinstance(executor(1), Here)
    assert executor(3, threads=2).threads == 2
    for wrong in ((0,), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            executor(*wrong)


def test_every_exit_code_has_words():
    assert death(-signal.SIGSEGV) == "its process was ended by SIGSEGV"
    assert death(-63) == "its process was ended by signal 63"
