"""Checks of the sizes in a recipe's ``[net]`` table, shared by all networks."""

from __future__ import annotations


def require_sizes(net: str, *, least: int = 1, **sizes: int | tuple[int, ...]) -> None:
    """Raise ValueError naming the first of ``sizes``, whole numbers or tuples of them, below ``least``, and an empty tuple."""
    for name, size in sizes.items():
        numbers = tuple(size) if isinstance(size, (tuple, list)) else (size,)
        if not numbers:
            raise ValueError(f"{net} {name} must not be empty")
        for number in numbers:
            if number < least:
                raise ValueError(f"{net} {name} must be at least {least}, got {number}")


def require_probability(net: str, **shares: float) -> None:
    """Raise ValueError naming the first of ``shares`` that is not in [0, 1)."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{net} {name} must be at least 0 and below 1, got {share}")
