"""Trained generative models: their sampling interfaces, and the counting of network evaluations, which are measured, never declared."""
