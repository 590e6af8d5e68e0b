"""Entries: locations, loading as models, cards and pictures."""
