"""Verification on the user's own network: editions compared with the summed loss."""

from mtl_accum.verify._absent import absent_tasks
from mtl_accum.verify._check import CheckedEdition, check, examine
from mtl_accum.verify._difference import gradient_difference
from mtl_accum.verify._judge import Judge
from mtl_accum.verify._oracle import in_pieces, oracle
from mtl_accum.verify._trial import Sandbox, leaves_reached, parameters_reached
from mtl_accum.verify._untouched import without_a_trace

__all__ = [
    "CheckedEdition",
    "Judge",
    "Sandbox",
    "absent_tasks",
    "check",
    "examine",
    "gradient_difference",
    "in_pieces",
    "leaves_reached",
    "oracle",
    "parameters_reached",
    "without_a_trace",
]
