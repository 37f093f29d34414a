"""The mean of the weights of runs that share their start; the shipped motion network is one (Wortsman et al. 2022, model soups).

    vivavoce train motion recordings/ --steps 400 -o a/      # the same seed, so the same start and the same first windows
    vivavoce train motion recordings/ --steps 1000 -o b/
    python scripts/average_weights.py a/motion.safetensors b/motion.safetensors b/motion.safetensors -o motion.safetensors

A file that is named twice counts twice. Runs on the same recordings share their statistics; the configuration is the first one's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def averaged(files: Sequence[Path]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Mean of all tensors, and the first file's metadata. ValueError where the files don't hold the same kinds of tensors."""
    sums: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
            metadata = metadata or (opened.metadata() or {})
        if sums and {k: v.shape for k, v in sums.items()} != {k: v.shape for k, v in tensors.items()}:
            raise ValueError(f"{file} holds other tensors than {files[0]}: give weights of one configuration")
        sums = {key: sums.get(key, torch.zeros_like(value)) + value for key, value in tensors.items()}
    return {key: value / len(files) for key, value in sums.items()}, metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="MOTION.safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists: remove it or give another name")
    try:
        tensors, metadata = averaged(args.files)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    save_file(tensors, args.output, metadata)


if __name__ == "__main__":
    main()
