"""Draws docs/way.png, the picture of the way in the README: ``python docs/draw_way.py``."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

_STAGES = [
    # x, y, title, text, colour
    (0, 1, "your network", "nn.Module\nConv, BN, ReLU, add,\npool, linear", "#dddddd"),
    (1, 1, "algo", "prune N:M, cluster with\nmasked k-means, fine-tune\n-> 1.25 bits a weight", "#cfe3f5"),
    (2, 1, "golden", "integer network, schedule,\npacked image, cycle model,\noverflow proof", "#d5efdf"),
    (3, 1, "cocotb_tests", "Verilog = golden:\nevery value,\nevery cycle", "#f9e2c4"),
    (1, 0, "your array", "rows, columns, d, N:M, k,\nWRF depth, ports\n(preset or TOML)", "#dddddd"),
    (2, 0, "hdl", "WS ... EWS-CMS from one\nsource; each module once", "#cfe3f5"),
    (3, 0, "synth", "area by block on a\nreal cell library,\nsix variants compared", "#f9e2c4"),
]
_ARROWS = [
    ((0, 1), (1, 1), ""),
    ((1, 1), (2, 1), "checkpoint"),
    ((2, 1), (3, 1), "streams"),
    ((1, 0), (2, 0), "config"),
    ((2, 0), (3, 0), "Verilog"),
    ((2, 0), (3, 1), ""),
    ((1, 0), (2, 1), ""),
]
_WIDTH, _HEIGHT, _STEP_X, _STEP_Y = 2.5, 1.25, 3.6, 2.2


def _centre(place):
    return place[0] * _STEP_X + _WIDTH / 2, place[1] * _STEP_Y + _HEIGHT / 2


def main():
    """Write the picture beside this file."""
    figure, axis = plt.subplots(figsize=(13.4, 3.9))
    for start, end, label in _ARROWS:
        (x0, y0), (x1, y1) = _centre(start), _centre(end)
        x0, x1 = x0 + _WIDTH / 2 + 0.05, x1 - _WIDTH / 2 - 0.05
        axis.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "lw": 1.6, "color": "#555555"})
        if label:
            lift = 0.12 if y0 == y1 else 0.22
            axis.text((x0 + x1) / 2, (y0 + y1) / 2 + lift, label, ha="center", fontsize=9, color="#555555")
    for x, y, title, text, colour in _STAGES:
        left, bottom = x * _STEP_X, y * _STEP_Y
        box = FancyBboxPatch((left, bottom), _WIDTH, _HEIGHT, boxstyle="round,pad=0.03", fc=colour, ec="#555555")
        axis.add_patch(box)
        axis.text(
            left + _WIDTH / 2, bottom + _HEIGHT - 0.2, title, ha="center", va="center", fontsize=12, weight="bold"
        )
        axis.text(left + _WIDTH / 2, bottom + 0.46, text, ha="center", va="center", fontsize=9.5)
    axis.set_xlim(-0.2, 3 * _STEP_X + _WIDTH + 0.2)
    axis.set_ylim(-0.2, _STEP_Y + _HEIGHT + 0.2)
    axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(Path(__file__).with_name("way.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
