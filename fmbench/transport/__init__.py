"""Optimal transport between finite sets of points, and the distances it starts from."""
