"""ODE solvers: one per file, stepping shared in :mod:`fmbench.solvers.base`."""
