"""One paper per file. A method says how to train (``loss``), how to sample, and what it can do; nothing else knows its name."""

from fmbench.methods.base import Batch, Method, VelocityMethod

__all__ = ["Batch", "Method", "VelocityMethod"]
