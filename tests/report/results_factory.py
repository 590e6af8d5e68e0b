"""Made-up but realistic results: anchors, a one-step map, nulls with reasons, a failure, a limited run, hostile names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmbench.records.result import Estimate, Result, Row

SHA = "a" * 64
STEPS = (1, 2, 4, 8, 16, 32, 100)
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_REASON = "</script><script>alert(2)</script> ![x](http://evil.example/x.png) | [red]=1+1"
BASE = {"cfm": 0.62, "fm": 0.64, "ot-cfm": 0.41, "sb-cfm": 0.45, "rf-1": 0.63, "rf-2": 0.52, "distilled": 0.70}


def estimate(value: float, half: float | None = None, n: int = 5000) -> Estimate:
    """A value with a symmetric interval."""
    return Estimate(value, None if half is None else (value - half, value + half), n)


def row(
    steps: int | None,
    metrics: Mapping[str, Estimate],
    solver: str = "euler",
    nfe: float | None = None,
    failed: str | None = None,
    guidance: float = 1.0,
    p50: float | None = 0.0012,
) -> Row:
    """One sampler's row; evaluations are the steps unless given."""
    count = float(steps or 0) if nfe is None else nfe
    conditions = {"batch": 256, "device": "cpu", "threads": 1, "dtype": "float32"}
    latency = (
        None
        if p50 is None
        else {"p50": p50 * max(count, 1), "p95": 2 * p50 * max(count, 1), "throughput": 1e5, **conditions}
    )
    return Row(solver, steps, guidance, {"network": count, "guidance": 0.0}, metrics, latency, {}, failed)


def result(entry: str, rows: tuple[Row, ...], task: str = "gaussian-8gaussians", **fields: Any) -> Result:
    """A result of one entry; ``model``, ``benchmark`` and other fields can be overridden."""
    model = {"name": f"{task}/{entry}", "method": entry, "division": "closed", "parameters": 12_934}
    content: dict[str, Any] = {
        "benchmark": {"name": "transport-2d", "version": 1, "sha256": SHA},
        "task": {"name": task, "version": 1},
        "flow": {},
        "ranked": True,
        "seeds": (0, 1, 2, 3, 4),
        "environment": {"device": "AMD EPYC 9354"},
        "created": "2025-11-22T07:00:00+00:00",
    }
    content |= {key: value for key, value in fields.items() if key != "model"}
    extra = {"samples_per_seed": 1000} if "samples_per_seed" in Result.__dataclass_fields__ else {}
    return Result(model=model | fields.get("model", {}), rows=rows, **extra, **content)


def simple(entry: str, value: float, half: float | None, steps: int = 8, **fields: Any) -> Result:
    """A result with one row of the primary metric."""
    return result(entry, (row(steps, {"wasserstein2": estimate(value, half)}),), **fields)


def _flow(base: float, entry: str) -> dict[str, Estimate]:
    straight = 2.0 * base if not entry.startswith("rf-2") else 0.04
    return {
        "straightness": estimate(straight, 0.03 * straight, 4096),
        "path_energy": estimate(14.2 + straight, 0.21, 4096),
        "normalized_path_energy": estimate(0.05 + straight / 15, 0.012, 4096),
        "transport_cost": estimate(14.2, 0.2, 4096),
        "curvature": estimate(31.7 * straight, 1.3, 4096),
    }


def _quality(base: float, steps: int, kind: str) -> dict[str, Estimate]:
    value = base + 2.1 * base / steps
    only_vector, only_image = (Estimate.missing(f"defined for {k} tasks only") for k in ("vector", "image"))
    half = 0.02 + 0.03 * value
    return {
        "wasserstein2": estimate(value, half) if kind == "vector" else only_vector,
        "sliced_wasserstein2": estimate(0.5 * value, 0.5 * half),
        "frechet_distance": estimate(12 * value, 12 * half) if kind == "image" else only_image,
        "kernel_distance": estimate(0.01 * value - 0.008, 0.002) if kind == "image" else only_image,
        "truncation_gap": estimate(1.7 * base / steps, 0.02 * base / steps),
    }


def _model(entry: str, base: float, kind: str, task: str, **fields: Any) -> Result:
    rows = [row(steps, _quality(base, steps, kind)) for steps in STEPS]
    rows.append(row(None, _quality(base, 200, kind), "dopri5", 83.6 + 10 * base))
    return result(entry, tuple(rows), task, flow=_flow(base, entry), **fields)


def _one_step(task: str, kind: str) -> Result:
    why = Estimate.missing("this model samples with euler and 1 step only")
    names = _quality(1, 1, kind)
    rows = [row(1, _quality(0.24, 1, kind))]
    rows += [Row("euler", steps, 1.0, {}, dict.fromkeys(names, why)) for steps in STEPS[1:]]
    rows.append(Row("dopri5", None, 1.0, {}, dict.fromkeys(names, why)))
    missing = dict.fromkeys(_flow(1, ""), Estimate.missing("needs a velocity field, and this model is a map"))
    return result("distilled", tuple(rows), task, flow=missing | {"transport_cost": estimate(14.3, 0.3, 5000)})


def table_of_results(task: str = "gaussian-8gaussians", kind: str = "vector", hostile: str = HOSTILE) -> list[Result]:
    """A whole table: both anchors, seven closed entries, an open one, a failed one, a limited one, one called ``hostile``."""
    anchor = {"division": "anchor", "parameters": 0}
    data = row(None, _quality(0.28, 1000, kind), "none", 0.0, p50=None)
    missing = dict.fromkeys(_flow(1, ""), Estimate.missing("real samples have no velocity field"))
    made = [
        result("data", (data,), task, flow=missing, model={**anchor, "method": "data"}),
        _model("oracle", 0.29, kind, task, model={**anchor, "method": "oracle"}),
        *(_model(entry, base, kind, task) for entry, base in BASE.items() if entry != "distilled"),
        _one_step(task, kind),
        _model("wide-unet", 0.35, kind, task, model={"division": "open", "parameters": 1_204_000, "method": "ot-cfm"}),
    ]
    broken = list(_model("w-cfm", 0.5, kind, task).rows)
    broken[3] = row(8, {}, failed="17 of 5000 samples are NaN or infinite (seed 0)", p50=None)
    broken[6] = row(100, {}, failed="17 of 5000 samples are NaN or infinite (seed 0)", p50=None)
    made.append(result("w-cfm", tuple(broken), task, flow=_flow(0.5, "w-cfm")))
    made.append(_model("quick-look", 0.3, kind, task, ranked=False))
    rows = list(_model(hostile, 0.66, kind, task).rows)
    rows[1] = row(2, {}, failed=HOSTILE_REASON, p50=None)
    made.append(result(hostile, tuple(rows), task, flow=_flow(0.66, ""), model={"method": "[red]x|y</script>"}))
    return made
