"""Results become tables, plots and a site. Reads result files only: imports no torch and runs nothing of an entry."""
