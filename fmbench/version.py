"""The version of fmbench, which results and recipes record."""

__version__ = "0.2.0"
