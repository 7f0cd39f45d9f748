"""Several processes that share a step."""
