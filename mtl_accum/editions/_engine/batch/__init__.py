"""The batch: pytrees, pieces, counts."""
