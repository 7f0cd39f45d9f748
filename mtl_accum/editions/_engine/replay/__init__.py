"""Passes that run more than once."""
