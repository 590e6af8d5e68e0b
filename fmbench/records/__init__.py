"""Plain data that is written and read: recipes, protocols, samplers, the table of metrics, results. Nothing here imports torch."""
