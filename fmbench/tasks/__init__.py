"""Tasks: transport from a source to a target. One family per file; a task is frozen and versioned, its docstring defines the geometry."""
