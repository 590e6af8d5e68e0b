"""Recipe -> entry."""
