"""The flow metrics as the harness computes them: on the Gaussian flow whose every figure is known, and on what has no flow."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation.cost.costs import model_cost
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.noise import draw
from fmbench.records.metric import METRICS as INFO
from fmbench.records.protocol import Sampler
from fmbench.zoo.foreign import wrap
from fmbench.zoo.model import Model

FLOW = {"samples": 2000, "steps": 40, "probes": 500, "probe_steps": 40}
NAMES = [name for name, info in INFO.items() if info.scope == "flow"]


def scores(model, task=None, **changes):
    if task is not None:
        task = dataclasses.replace(task, w2_squared=(4.25, 0.0))
        model = Model(f"{task.name}/x", task, model.method, None, model.identity)
    return FlowScorer(model, NAMES, 0, {**FLOW, **changes}, 200, 256).score()


@pytest.fixture(scope="module")
def known(gaussian_flow):
    """The curved and the straight flow from N(0, 1) to N(2, 0.5^2)."""
    return {
        name: scores(wrap(velocity, "gaussian-moons", name), gaussian_flow.task)
        for name, velocity in (("curved", gaussian_flow.velocity), ("straight", gaussian_flow.straight))
    }


def noise_generator(model):
    """The generator of the first block of fresh real samples of seed 0, found by drawing it."""
    found = []
    draw(lambda n, g: found.append(g.clone_state()) or torch.zeros(n), 0, 16, 0, "data")
    return found[0]


def near(estimate, value, slack=0.0):
    low, high = estimate.ci or (estimate.value, estimate.value)
    return low - slack - (high - low) <= value <= high + slack + (high - low)


def test_the_straight_flow_is_straight_in_every_way(known):
    found = known["straight"]
    for name in ("straightness", "curvature", "crossing", "round_trip_error", "monge_gap"):
        assert found[name].value == pytest.approx(0, abs=2e-4), name
    # E[(2 - z/2)^2] = 4.25 is both W2^2 and the cost of this monotone map.
    assert near(found["transport_cost"], 4.25)
    assert near(found["kinetic_energy"], 4.25 / 2)
    assert found["normalized_path_energy"].value == pytest.approx(0, abs=0.1)


@pytest.mark.slow
def test_a_field_of_zeros_has_numbers(gaussian_flow):
    """Nothing moves: no energy, and 0 / 0 nowhere, so that the result can be written."""
    found = scores(
        wrap(nn.Identity(), "gaussian-moons", "still", lambda _, x, t: torch.zeros_like(x)), gaussian_flow.task
    )
    assert found["path_energy"].value == found["transport_cost"].value == 0
    json.dumps([e.details for e in found.values()], allow_nan=False)


def test_the_curved_flow_has_the_closed_forms(known):
    """S of N(0,1) -> N(m, s^2) does not see m: 0.2146018366 at s = 1/2, and the independent coupling has V = pi/4 of its own."""
    found = known["curved"]
    assert near(found["straightness"], 0.2146018366)
    assert near(found["path_energy"], 4.25 + 0.2146018366)
    assert found["velocity_error"].value == pytest.approx(0, abs=1e-9)
    assert found["relative_velocity_error"].value == pytest.approx(0, abs=1e-9)
    assert found["monge_gap"].value == pytest.approx(0, abs=1e-4)
    assert found["crossing"].value > 0.1


def test_the_straight_field_is_not_the_one_of_independent_pairs(known):
    found = known["straight"]
    assert found["velocity_error"].value > 0.1
    assert 0 < found["relative_velocity_error"].value < 0.1


def test_both_flows_have_the_likelihood_of_their_target(known):
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    for name, found in known.items():
        nll = found["nll"]
        assert near(nll, entropy), name
        assert nll.value == pytest.approx(nll.details["floor"], abs=1e-4), name


@pytest.mark.slow
def test_a_scaled_field_is_worse_everywhere(known, gaussian_flow):
    class Scaled(nn.Module):
        def forward(self, x, t):
            return 1.2 * gaussian_flow.velocity(x, t)

    found = scores(wrap(Scaled(), "gaussian-moons", "x"), gaussian_flow.task)
    assert found["nll"].value > known["curved"]["nll"].value + 0.05
    assert found["relative_velocity_error"].value == pytest.approx(0.04, abs=1e-4)


def test_metrics_without_a_field_say_why():
    for model in (None, fmbench.load("gaussian-moons/rf-distill")):
        found = FlowScorer(model, NAMES, 0, {**FLOW, "samples": 64, "probes": 8}, 64, 64).score()
        assert set(found) == set(NAMES)
        for name, estimate in found.items():
            one_step_cost = model is not None and name == "transport_cost"
            assert (estimate.value is not None) == one_step_cost, name
            assert one_step_cost or estimate.reason


def test_a_field_that_fails_nulls_what_it_fails():
    class Broken(nn.Module):
        def forward(self, x, t):
            return x / 0

    found = FlowScorer(
        wrap(Broken(), "gaussian-moons", "x"), NAMES, 0, {**FLOW, "samples": 8, "probes": 4}, 8, 8
    ).score()
    lacking = {name for name, e in found.items() if str(e.reason).startswith("needs ")}
    assert lacking == {"bits_per_dimension"}
    assert all(e.value is None and "NaN or infinite" in str(e.reason) for n, e in found.items() if n not in lacking)


BITS = ["bits_per_dimension", "nll"]
FEW = {"samples": 16, "steps": 4, "probes": 16, "probe_steps": 4}


def test_images_have_bits_per_dimension():
    found = FlowScorer(fmbench.load("digits/ot-cfm"), BITS, 0, FEW, 16, 16).score()
    assert found["nll"].value is None
    # Held-out digits cost less than log2(17) bits a pixel under anything trained, and more than a third of a bit.
    assert 1 / 3 < found["bits_per_dimension"].value < math.log2(17)


def test_what_ends_in_training_images_has_no_likelihood():
    bits = FlowScorer(fmbench.load("digits/oracle"), BITS, 0, FEW, 16, 16).score()["bits_per_dimension"]
    assert bits.value is None
    assert "trajectories that do not end in points: the model has none" in bits.reason
    assert FlowScorer(fmbench.load("gaussian-moons/oracle"), ["nll"], 0, FEW, 16, 16).score()["nll"].value is not None


def test_labels_of_noise_and_of_data_reach_the_field(zoo):
    model = fmbench.load("digits/tiny-conditional")
    scorer = FlowScorer(model, BITS, 0, FEW, 16, 16)
    seen = scorer.evidence()
    _, labels = model.task.heldout.sample_labelled(256, noise_generator(model))
    t = torch.full((16,), 0.5)
    assert torch.equal(seen.data_velocity(seen.data, t), model.method.velocity(seen.data, t, labels[:16]))
    assert torch.equal(seen.velocity(seen.x0, t), model.method.velocity(seen.x0, t, model.labels(0, 16, 0)))
    assert scorer.score()["bits_per_dimension"].value > 0


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch_size():
    model = fmbench.load("gaussian-moons/cfm")
    flow = {"samples": 300, "steps": 8, "probes": 32, "probe_steps": 8}
    small, large = (FlowScorer(model, NAMES, 0, flow, 300, size).score() for size in (64, 300))
    for name in NAMES:
        if small[name].value is not None:
            assert small[name].value == pytest.approx(large[name].value, rel=1e-4, abs=1e-6), name


def test_costs_of_a_model():
    model = fmbench.load("gaussian-moons/cfm")
    sampler = Sampler("euler", 3)
    cost = model_cost(model, sampler, 16)
    linear = sum(p.numel() for p in model.method.parameters() if p.ndim == 2)
    assert cost["flops_per_evaluation"] == 2 * linear
    assert cost["flops_per_sample"] == 3 * cost["flops_per_evaluation"]
    assert cost["energy"]["joules_per_sample"] is None or torch.cuda.is_available()
