"""What a model costs to run: latency, operations, memory, energy."""
