"""Conditional probability paths, and couplings of minibatches."""
