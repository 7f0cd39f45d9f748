"""The files of a checkpoint, rewritten with digests that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtl_accum.training.checkpoint._digests import digest_of_values

TENSOR_FILE = "shard-00001-model-00001-of-00001.safetensors"


def sign(folder: Path, **changes: Any) -> None:
    """Change the state, as somebody does who knows how it is signed."""
    state = json.loads((folder / "state.json").read_text()) | changes
    state.pop("sha256")
    (folder / "state.json").write_text(json.dumps({**state, "sha256": digest_of_values(state)}))
