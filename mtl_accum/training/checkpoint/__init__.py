"""Checkpoints: what is in them, where they are written, and how a run resumes."""

from mtl_accum.training.checkpoint._codec import decode
from mtl_accum.training.checkpoint._resume import find
from mtl_accum.training.checkpoint._retention import FOLDER, Checkpoints, of_path
from mtl_accum.training.checkpoint._state import expect_to_fit, gather, restore
from mtl_accum.training.checkpoint._store import Checkpoint, CheckpointError
from mtl_accum.training.checkpoint._weights import WEIGHTS, check_weights, save_weights

__all__ = [
    "FOLDER",
    "WEIGHTS",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "check_weights",
    "decode",
    "expect_to_fit",
    "find",
    "gather",
    "of_path",
    "restore",
    "save_weights",
]
