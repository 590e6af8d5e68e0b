"""How work is carried out: foreign code kept apart from everything else."""
