"""Write checkpoints with random weights, in the form that users meet: original names, fp16, single files.

    python bench/random_experts.py experts                  four small ones (86 MB in all), and a weights.toml
    python bench/random_experts.py /tmp/full --full         four of SD1.5's size (2.1 GB each)

They know nothing; they are for trying the tool and for measuring speed, memory and parity.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

TABLE = Path(__file__).parents[1] / "tests" / "data" / "sd15_ldm.txt"
UNET = "model.diffusion_model."

# The small ones differ from SD1.5 in nothing but widths (the UNet's by 10, the VAE's by 4, CLIP's by 12) and in how
# many layers CLIP has, so that they load without a config.json: 8 heads, 32 groups, CLIP's vocabulary.
SMALL = {320: 32, 640: 64, 960: 96, 1280: 128, 1920: 192, 2560: 256, 5120: 512, 10240: 1024}
SMALL |= {128: 32, 256: 64, 512: 128} | {768: 64, 3072: 256}
SKIPPED = tuple(f"cond_stage_model.transformer.text_model.encoder.layers.{i}." for i in range(2, 12))

DESCRIPTORS = (
    ("photograph, portrait, 8K, ultra realistic", "drawing, render, cartoon"),
    ("anime, masterpiece, chibi", "photo, watermark, lowres"),
    ("fantasy, concept art, soft lighting", "blurry, mutated, text"),
    ("oil painting, vivid colors, crisp lines", "low quality, out of frame"),
)


def shapes(full: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor."""
    rows = (line.split(" ") for line in TABLE.read_text().splitlines() if not line.startswith("#"))
    table = {name: tuple(map(int, shape.split("x"))) for name, shape in rows}
    if full:
        return table
    small = {name: tuple(SMALL.get(n, n) for n in shape) for name, shape in table.items()}
    return {name: shape for name, shape in small.items() if not name.startswith(SKIPPED)}


def random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights that keep activations near unit scale: 1/sqrt(fan in), norms near 1, small biases."""
    if name.endswith("position_ids"):
        return torch.arange(shape[-1])[None]
    value = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return value / value[0].numel() ** 0.5
    return 0.02 * value if name.endswith("bias") else 1 + 0.02 * value


def write_mixture(folder: Path, count: int = 4, full: bool = False, seed: int = 0, apart: float = 0.3) -> Path:
    """`count` checkpoints and their weights.toml, whose path comes back.

    apart: relative distance of an expert's UNet from the first's. Of small ones, only the first is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [f'base = "expert_1.safetensors"\ntop = {min(2, count)}\n']
    for i in range(count):
        whole = full or i == 0
        base, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1 + i)
        tensors = {}
        for name, shape in shapes(full).items():
            if not whole and not name.startswith(UNET):
                continue
            value = random(name, shape, base)
            if i and name.startswith(UNET) and len(shape) > 1:
                value = (value + apart * random(name, shape, own)) / (1 + apart**2) ** 0.5
            tensors[name] = value.half() if value.is_floating_point() else value
        save_file(tensors, folder / f"expert_{i + 1}.safetensors")
        positive, negative = DESCRIPTORS[i % len(DESCRIPTORS)]
        variant = f", variant {i}" if i >= len(DESCRIPTORS) else ""
        tables.append(
            f'[[expert]]\nsource = "expert_{i + 1}.safetensors"\n'
            f'positive = "{positive}{variant}"\nnegative = "{negative}"\n'
        )
    path = folder / "weights.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--full", action="store_true", help="SD1.5's size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.experts < 2:
        parser.error("disagreement takes two experts")
    path = write_mixture(options.folder, options.experts, options.full, options.seed)
    print(f"{options.experts} experts, described in {path}")


if __name__ == "__main__":
    main()
