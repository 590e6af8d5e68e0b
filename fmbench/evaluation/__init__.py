"""Model -> samples -> estimates -> result."""
