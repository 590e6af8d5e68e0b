"""What a set of numbers says: intervals, moments, comparisons."""
