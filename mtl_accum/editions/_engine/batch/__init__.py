"""Batches: pytrees, cutting into pieces, counts."""
