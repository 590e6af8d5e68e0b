"""Metrics: one per file, pure functions on samples, features or trajectories, each with a ``measure(evidence)`` for the harness."""
