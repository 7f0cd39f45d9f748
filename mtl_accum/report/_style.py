"""Colours and patterns that colour-blind readers and grey prints tell apart."""

from __future__ import annotations

__all__ = ["CATEGORY_LOOKS", "EDITION_COLOURS", "KIND_COLOURS", "KIND_HATCHES", "OTHER_LOOK"]

# Okabe and Ito (2008), Color Universal Design; hatches for grey prints.
_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED, _YELLOW = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442"),
)
# By category: colour, and matplotlib's hatch.
CATEGORY_LOOKS = {
    "activations": (_BLUE, ""),
    "temporaries": (_ORANGE, "//"),
    "parameters": (_GREEN, ".."),
    "buffers": ("#b3b3b3", ""),
    "gradients": (_PINK, "\\\\"),
    "optimizer_state": (_SKY, "xx"),
    "inputs": (_YELLOW, "--"),
    "workspaces": ("#666666", ".."),
    "rounding": ("#cccccc", "//"),
}
OTHER_LOOK = ("#d9d9d9", "")  # of a peak that no category explains
KIND_COLOURS = {"forward": _BLUE, "backward": _RED, "optimizer": _GREEN, "zero_grad": "#666666"}
KIND_HATCHES = {"forward": "", "backward": "////", "optimizer": "....", "zero_grad": ""}
EDITION_COLOURS = [_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED]
