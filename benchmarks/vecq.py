"""What k bits of VecQ leave of normally distributed weights: J_o, and the error after driving.

    python benchmarks/vecq.py [--weights 4000000] [--json FILE]

The weights are not random: the normal distribution is cut into as many parts of the same chance, and each weight is the
mean of one. So the table has no sampling error.
``J_o`` is 1 - cos(w, v), what steering makes small; ``nMSE`` is ||w - alpha v||^2 / ||w||^2, which is 1 - cos^2 when
driving has chosen alpha.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from algo.vecq import STEPS, drive, orientation_loss, steer
from golden.files import write_text


def measure(weights):
    """A row for each k from 1 to 8: ``bits``, ``step`` (in deviations), ``orientation_loss``, ``nmse`` and ``gain``,
    alpha over the step."""
    edges = torch.special.ndtri(torch.arange(weights + 1, dtype=torch.float64) / weights)
    density = torch.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    w = weights * (density[:-1] - density[1:])
    rows = []
    for bits, step in enumerate(STEPS, 1):
        v = steer(w, bits)
        alpha = drive(w, v)
        rows.append(
            {
                "bits": bits,
                "step": step,
                "orientation_loss": orientation_loss(w, v),
                "nmse": float(((w - alpha * v) ** 2).sum() / (w * w).sum()),
                "gain": float(alpha / (step * w.std(correction=0))),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=4_000_000)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    rows = measure(options.weights)
    print("bits    step       J_o        nMSE      alpha / step")
    for row in rows:
        print(
            f"{row['bits']:4d}  {row['step']:.4f}  {row['orientation_loss']:.3e}  {row['nmse']:.4e}  {row['gain']:.4f}"
        )
    if options.json:
        write_text(options.json, json.dumps({"weights": options.weights, "rows": rows}, indent=2) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
