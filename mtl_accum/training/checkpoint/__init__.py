"""Checkpoints: their content, their files, and the one that a run resumes from."""

from mtl_accum.training.checkpoint._codec import decode
from mtl_accum.training.checkpoint._folder import FOLDER, checkpoint_at, list_checkpoints, newest_checkpoint
from mtl_accum.training.checkpoint._resume import find_checkpoint
from mtl_accum.training.checkpoint._retention import CheckpointWriter
from mtl_accum.training.checkpoint._state import collect, expect_to_fit, restore
from mtl_accum.training.checkpoint._store import Checkpoint, CheckpointError
from mtl_accum.training.checkpoint._weights import WEIGHTS, check_weights, save_weights

__all__ = [
    "FOLDER",
    "WEIGHTS",
    "Checkpoint",
    "CheckpointError",
    "CheckpointWriter",
    "check_weights",
    "checkpoint_at",
    "collect",
    "decode",
    "expect_to_fit",
    "find_checkpoint",
    "list_checkpoints",
    "newest_checkpoint",
    "restore",
    "save_weights",
]
