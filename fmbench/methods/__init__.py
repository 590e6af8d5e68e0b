"""Methods, one paper per file. A method defines training (``loss``), sampling, and capabilities; no other code depends on its name."""

from fmbench.methods.base import Batch, Method, VelocityMethod

__all__ = ["Batch", "Method", "VelocityMethod"]
