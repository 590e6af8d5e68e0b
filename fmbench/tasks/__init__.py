"""What is transported to what. One family of tasks per file; a task is frozen and versioned, its geometry exact in its docstring."""
