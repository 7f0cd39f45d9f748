"""Colours and patterns of figures, distinct for colour-blind readers and in grey prints."""

from __future__ import annotations

__all__ = ["CATEGORY_STYLES", "EDITION_COLOURS", "KIND_COLOURS", "KIND_HATCHES", "OTHER_STYLE"]

# Okabe and Ito (2008), Color Universal Design; hatches for grey prints.
_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED, _YELLOW = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442"),
)
# Colour and matplotlib's hatch by category.
CATEGORY_STYLES = {
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
OTHER_STYLE = ("#d9d9d9", "")  # for the part of a peak that no category explains
KIND_COLOURS = {"forward": _BLUE, "backward": _RED, "optimizer": _GREEN, "zero_grad": "#666666"}
KIND_HATCHES = {"forward": "", "backward": "////", "optimizer": "....", "zero_grad": ""}
EDITION_COLOURS = [_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED]
