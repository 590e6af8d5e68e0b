"""What a trained thing can do, and what that costs: evaluations are counted around the networks, never declared."""
