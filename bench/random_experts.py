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


def write(folder: Path, count: int, full: bool, seed: int, apart: float) -> list[Path]:
    """`count` files: the first complete, the others a UNet alone, `apart` from the first's."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        base, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1 + i)
        tensors = {}
        for name, shape in shapes(full).items():
            if i == 0 or full or name.startswith(UNET):
                value = random(name, shape, base)
                if name.startswith(UNET) and len(shape) > 1 and i:
                    value = (value + apart * random(name, shape, own)) / (1 + apart**2) ** 0.5
                tensors[name] = value if name.endswith("position_ids") else value.half()
        paths.append(folder / f"expert_{i + 1}.safetensors")
        save_file(tensors, paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--full", action="store_true", help="SD1.5's size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--apart", type=float, default=0.3, help="relative distance of an expert from the first")
    options = parser.parse_args()
    paths = write(options.folder, options.experts, options.full, options.seed, options.apart)
    tables = [f'base = "{paths[0].name}"\ntop = {min(2, options.experts)}\n']
    for i, path in enumerate(paths):
        positive, negative = DESCRIPTORS[i % len(DESCRIPTORS)]
        again = "" if i < len(DESCRIPTORS) else f", variant {i}"
        tables.append(f'[[expert]]\nsource = "{path.name}"\npositive = "{positive}{again}"\nnegative = "{negative}"\n')
    (options.folder / "weights.toml").write_text("\n".join(tables), encoding="utf-8")
    print(f"{len(paths)} experts and {options.folder / 'weights.toml'}")


if __name__ == "__main__":
    main()
