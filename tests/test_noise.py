"""The noise contract: sample i of seed s depends on (s, i) only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmbench.noise import BLOCK, STREAMS, Draws, draw, generator


def normal(n: int, random: torch.Generator) -> Tensor:
    return torch.randn((n, 3), generator=random)


def rejection(n: int, random: torch.Generator) -> Tensor:
    """Uses a number of random numbers that depends on the draws themselves."""
    kept = torch.empty(0)
    while len(kept) < n:
        candidates = torch.rand(64, generator=random)
        kept = torch.cat([kept, candidates[candidates > 0.5]])
    return kept[:n, None]


@pytest.mark.parametrize("sample", [normal, rejection])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 256), (255, 257), (256, 512), (300, 301), (100, 1000), (511, 1024)]
)
def test_any_range_is_a_slice_of_the_whole(sample, start: int, stop: int) -> None:
    whole = draw(sample, 0, 1024, 5, "source")
    assert torch.equal(draw(sample, start, stop, 5, "source"), whole[start:stop])


def test_blocks_do_not_depend_on_how_many_are_drawn() -> None:
    whole = draw(normal, 0, 3 * BLOCK, 0, "source")
    for size in (1, 7, 100, 256, 333):
        pieces = [draw(normal, k, min(k + size, 3 * BLOCK), 0, "source") for k in range(0, 3 * BLOCK, size)]
        assert torch.equal(torch.cat(pieces), whole)


def test_blocks_streams_and_seeds_all_differ() -> None:
    drawn = [draw(normal, 0, 2 * BLOCK, seed, stream) for seed in (0, 1, 2) for stream in STREAMS]
    blocks = [block for points in drawn for block in points.split(BLOCK)]
    assert len(blocks) == 2 * 3 * len(STREAMS)
    rows = [tuple(row) for block in blocks for row in block.tolist()]
    assert len(set(rows)) == len(rows)


def test_no_sample_is_repeated_and_noise_is_normal() -> None:
    x = draw(normal, 0, 20_000, 3, "source").double()
    assert len(x[:, 0].unique()) > 19_990
    assert (x.mean(0).abs() < 5 / 20_000**0.5).all()
    assert (x.T @ x / 20_000 - torch.eye(3)).abs().max() < 0.04
    lagged = (x[BLOCK:, 0] * x[:-BLOCK, 0]).mean()
    assert lagged.abs() < 5 / 20_000**0.5


def test_global_random_state_is_neither_read_nor_written() -> None:
    before = torch.random.get_rng_state()
    first = draw(normal, 0, 10, 0, "label")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(draw(normal, 0, 10, 0, "label"), first)


def test_keys_are_tuples_not_sums() -> None:
    keys = [(0,), (1,), (5,), (23,), (0, 1), (1, 1), (2, 3), (3, 2), (1, 2, 3), (3, 2, 1), (12, 3), (1, 23)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 4), (-1, 3)])
def test_empty_ranges_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"0 <= start < stop, got {start}, {stop}"):
        draw(normal, start, stop, 0, "source")


def test_what_a_sampler_draws_depends_on_row_purpose_and_step_only() -> None:
    whole = Draws(7, 0, 600, normal)
    assert torch.equal(whole.start(), draw(normal, 0, 600, 7, "source"))
    for first, stop in ((0, 1), (250, 260), (256, 512), (599, 600)):
        part = whole.rows(first, stop)
        assert len(part) == stop - first
        assert torch.equal(part.start(), whole.start()[first:stop])
        for step in (0, 1, 9):
            assert torch.equal(part.normal((3,), step), whole.normal((3,), step)[first:stop])
            assert torch.equal(part.uniform((), step), whole.uniform((), step)[first:stop])
        assert torch.equal(part.rows(0, 1).normal((3,), 4), whole.normal((3,), 4)[first : first + 1])


def test_steps_and_purposes_of_a_sampler_are_unrelated() -> None:
    draws = Draws(0, 0, 20_000, normal)
    drawn = [draws.start(), *(draws.normal((3,), step) for step in range(3)), draws.normal((3,), 0, "choice")]
    correlation = torch.corrcoef(torch.stack([x.flatten() for x in drawn]).double()) - torch.eye(len(drawn))
    assert correlation.abs().max() < 4 / (3 * 20_000) ** 0.5 * 1.5
    assert draws.uniform().min() >= 0
    assert draws.uniform().max() < 1


def test_impossible_draws_are_named() -> None:
    draws = Draws(0, 0, 10, normal)
    for first, stop in ((0, 11), (5, 5), (-1, 3)):
        with pytest.raises(ValueError, match=f"rows {first} to {stop} are no part of 10"):
            draws.rows(first, stop)
    with pytest.raises(ValueError, match="unknown purpose 'dice'"):
        draws.normal((3,), purpose="dice")
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        draws.normal((3,), -1)
