"""Statistics of sets of values: intervals, moments, comparisons."""
