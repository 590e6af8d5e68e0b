"""Files that are never half-written, the cache folder, downloads, and readers of files from outside."""
