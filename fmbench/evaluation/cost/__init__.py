"""Cost of running a model: latency, operations, memory, energy."""
