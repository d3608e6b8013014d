"""Training recipes (YAML)."""
