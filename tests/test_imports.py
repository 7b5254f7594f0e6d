"""Imports point one way: the network knows no mixtures, the mixtures no files, the method no command line."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "emoe"

# A module may import from its own line and from those above.
LAYERS = [
    {"errors", "redact", "shipped", "words", "choices"},
    {
        "route",
        "uncertainty",
        "schedule",
        "tokenizer",
        "text",
        "prompts",
        "records",
        "device",
        "terminal",
        "progress",
        "atomic",
        "heap",
        "exclusive",
        "config",
        "png",
        "sheet",
    },
    {"unet", "vae", "scores", "ray_records"},
    {"moe", "denoise", "gate", "generations", "images", "reference"},
    {"capture", "checkpoint", "fingerprint"},
    {"gate_vectors", "notices", "model", "segmoe"},
    {"assemble", "scoring"},
    {"generating", "gallery"},
    {"pipeline"},
    {"miniature", "describing", "explaining", "lock", "ray", "scored"},
    {"study"},
    {"commands"},
    {"__main__", ""},
]


def imported(path: Path) -> set[str]:
    """The parts of emoe that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emoe":
            # what comes from the package itself is in emoe/__init__.py, which knows errors alone
            names = ["emoe.errors"] if node.module == "emoe" else [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("emoe.")}
    return found


def test_imports_point_one_way():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py").replace("__init__", "")
        for other in imported(path) - {part}:
            assert level[other] <= level[part], f"{path.relative_to(ROOT)} imports emoe.{other}"


def test_the_unet_knows_no_mixture():
    for path in (ROOT / "unet").rglob("*.py"):
        assert imported(path) <= {"route", "unet"}
