"""Latency in a file: one short list for every batch size, conditions that all samplers share once. What can be computed is left out.

The long form repeats the largest batch size at the top, the conditions, and the best of all (:class:`fmbench.records.schema.Latency`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONS = ("clock", "device", "dtype", "compile", "threads", "tf32")
COLUMNS = ("batch", "p50", "p95", "p99", "iqr", "repeats", "warmup", "stable")
OWN = ("first_call", "clock_mhz")


def conditions(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The conditions of the first latency that has them all."""
    for one in found:
        if all(key in one for key in CONDITIONS):
            return {key: one[key] for key in CONDITIONS}
    return {}


def _best(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = max(batches, key=lambda one: one["throughput"])
    return {"batch": best["batch"], "throughput": best["throughput"]}


def fold(long: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """The short form; the long one as it is, below ``long``, where the short one could not give it back."""
    try:
        short: dict[str, Any] = {key: long[key] for key in OWN}
        short["batches"] = [[one[key] for key in COLUMNS] for one in long["batches"]]
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
        batches = [dict(zip(COLUMNS, one, strict=True)) for one in short["batches"]]
        rates = short.get("throughput") or [one["batch"] / one["p50"] for one in batches]
        batches = [{**one, "throughput": rate} for one, rate in zip(batches, rates, strict=True)]
        own = {key: short[key] for key in OWN}
        if unknown := set(short) - {*OWN, "batches", "throughput"}:
            raise ValueError(f"latency has {sorted(unknown)[0]!r}, which is no field of it")
        return {**batches[-1], **own, **timing, "best": _best(batches), "batches": batches}
    except (KeyError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        raise ValueError("latency must have first_call, clock_mhz and a list of eight for every batch size") from None
