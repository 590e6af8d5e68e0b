"""Execution of work: foreign code isolated from the rest of the process."""
