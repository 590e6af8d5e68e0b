"""What an entry is: where it lies, how it becomes a model, its card and pictures."""
