"""From a memory budget to a schedule: what the parts of a network need, and what a schedule makes of it."""
