"""Situations of the field, each found in public reports: what the user's plain loop gives is the right value."""

from experiments.exactness.situations._batches import BATCHES
from experiments.exactness.situations._losses import LOSSES
from experiments.exactness.situations._network import EVERY, SAMPLES, Network, Situation
from experiments.exactness.situations._trunks import TRUNKS

__all__ = ["EVERY", "SAMPLES", "SITUATIONS", "Network", "Situation"]

SITUATIONS: dict[str, Situation] = BATCHES | TRUNKS | LOSSES
