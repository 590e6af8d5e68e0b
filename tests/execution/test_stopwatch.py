"""No second counts twice."""

import pytest

from fmbench.execution.stopwatch import Stopwatch


def fail(watch, now):
    with watch.phase("inner"):
        now[0] += 64
        raise ZeroDivisionError


def test_phases_inside_others_stop_their_clocks():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    now[0] += 1
    with watch.phase("outer"):
        now[0] += 2
        with watch.phase("inner"):
            now[0] += 4
            with watch.phase("outer"):
                now[0] += 8
        now[0] += 16
    now[0] += 32
    with pytest.raises(ZeroDivisionError):
        fail(watch, now)
    assert watch.seconds == {"outer": 26.0, "inner": 68.0}
    assert watch.total == 127.0
