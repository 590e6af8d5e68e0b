"""Latency of a sampler: its fields, and its short form in a file, one list per batch size with the shared conditions stored once.

The long form repeats the largest batch size at the top, the conditions, and the best of all (:class:`Latency`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from fmbench.records.conditions import Amount, Closed, Count, Positive, Seconds, Text
from fmbench.records.typed import law, shown

CONDITIONS = ("clock", "device", "dtype", "compile", "threads", "tf32")
COLUMNS = ("batch", "p50", "p95", "p99", "iqr", "repeats", "warmup", "stable", "low", "high", "cpu", "void")
"""Fields of every batch size, in the order of files; those of earlier versions end after ``stable``."""
EARLIER = 8
OWN = ("first_call", "clock_mhz")
LATER = ("key", "others")
"""Fields that were added when latencies became shared by architecture."""


class Batch(Closed, frozen=True):
    """Latency at one batch size, in seconds per batch, or the reason why it could not be measured.

    ``low`` and ``high`` are the 95 % interval of the median, ``cpu`` the CPU seconds per sample, ``void`` why the times are not to be compared.
    """

    batch: Positive
    p50: Seconds | None = None
    p95: Seconds | None = None
    p99: Seconds | None = None
    iqr: Seconds | None = None
    throughput: Amount | None = None
    repeats: Count | None = None
    warmup: Count | None = None
    stable: bool | None = None
    low: Seconds | None = None
    high: Seconds | None = None
    cpu: Seconds | None = None
    void: Text | None = None
    failed: Text | None = None

    def __post_init__(self) -> None:
        known = [q for q in (self.p50, self.p95, self.p99) if q is not None]
        law(known == sorted(known), lambda: f"p50, p95 and p99 must not fall, got {shown(known)}")
        if self.p50 is not None and self.low is not None and self.high is not None:
            law(self.low <= self.p50 <= self.high, f"p50 must lie between low and high, got {shown(self.p50)}")
        law(not (self.stable and self.void), f"void must be null where stable is true, got {shown(self.void)}")


class Best(Closed, frozen=True):
    """The batch size of the highest throughput."""

    batch: Positive
    throughput: Amount


class Latency(Batch, frozen=True):
    """Latency of the largest batch size with its conditions, of all of them, and the best; or why there is none.

    ``key`` names architecture, sampler and machine (:mod:`fmbench.evaluation.timing`), ``others`` is the share of the machine's CPU time that
    other processes took meanwhile.
    """

    batch: Positive | None = None
    first_call: Seconds | None = None
    clock: str | None = None
    device: str | None = None
    dtype: str | None = None
    compile: str | None = None
    threads: Count | None = None
    tf32: str | None = None
    clock_mhz: Amount | None = None
    key: Text | None = None
    others: Annotated[float, Meta(ge=0, le=1)] | None = None
    best: Best | None = None
    batches: tuple[Batch, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        law(
            self.batch is not None or self.failed is not None,
            "batch must say of how many samples, or failed why there is none",
        )


def conditions(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The conditions of the first latency that has them all."""
    for one in found:
        if all(key in one for key in CONDITIONS):
            return {key: one[key] for key in CONDITIONS}
    return {}


def _best(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = max(batches, key=lambda one: one["throughput"])
    return {"batch": best["batch"], "throughput": best["throughput"]}


def _columns(one: Mapping[str, Any]) -> list[Any]:
    """The fields of a batch size: all columns, or those of earlier versions."""
    return [one[key] for key in (COLUMNS if COLUMNS[-1] in one else COLUMNS[:EARLIER])]


def fold(long: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """The short form; where it would lose something, the long one unchanged, under ``long``."""
    try:
        short: dict[str, Any] = {key: long[key] for key in OWN}
        short |= {key: long[key] for key in LATER if key in long}
        short["batches"] = [_columns(one) for one in long["batches"]]
        rates = [one["throughput"] for one in long["batches"]]
        short["throughput"] = rates
        if all(rate == one["batch"] / one["p50"] for rate, one in zip(rates, long["batches"], strict=True)):
            del short["throughput"]
        if json.dumps(unfold(short, timing), sort_keys=True) == json.dumps(long, sort_keys=True):
            return short
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
        pass
    return {"long": dict(long)}


def unfold(short: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """The long form. Raises ValueError in one line for anything that is no short form."""
    if "long" in short:
        if set(short) != {"long"} or not isinstance(short["long"], dict):
            raise ValueError("latency.long must be a table and stand alone")
        return dict(short["long"])
    try:
        batches = [dict(zip(COLUMNS[: max(len(one), EARLIER)], one, strict=True)) for one in short["batches"]]
        rates = short.get("throughput") or [one["batch"] / one["p50"] for one in batches]
        batches = [{**one, "throughput": rate} for one, rate in zip(batches, rates, strict=True)]
        own = {key: short[key] for key in OWN} | {key: short[key] for key in LATER if key in short}
        if unknown := set(short) - {*OWN, *LATER, "batches", "throughput"}:
            raise ValueError(f"latency has {sorted(unknown)[0]!r}, which is no field of it")
        return {**batches[-1], **own, **timing, "best": _best(batches), "batches": batches}
    except (KeyError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"latency must have first_call, clock_mhz and a list of {EARLIER} or {len(COLUMNS)} for every batch size"
        ) from None
