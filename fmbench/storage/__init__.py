"""Atomic files, the cache folder, downloads, and readers of untrusted files."""
