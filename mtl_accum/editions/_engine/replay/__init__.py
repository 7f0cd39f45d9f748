"""Functions that run more than once: replays, recomputation in the backward, and checks of both."""
