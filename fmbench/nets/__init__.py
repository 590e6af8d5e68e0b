"""Networks: one per file. Every net is called as ``net(x, t, labels=None)`` and returns a tensor shaped like ``x``."""
