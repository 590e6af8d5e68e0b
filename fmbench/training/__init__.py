"""Training: recipe -> entry."""
