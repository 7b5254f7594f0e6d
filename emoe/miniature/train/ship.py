"""The shipped files: one base, two families of experts in many forms, a CLIP and a judge; all in float16."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel

from emoe.checkpoint.save import save_json, save_pipeline
from emoe.miniature.clip import TEXT
from emoe.miniature.judge import Judge
from emoe.miniature.train import forms
from emoe.miniature.train.experts import Lesson
from emoe.text import TextEncoder
from emoe.unet import UNet
from emoe.vae import VAE

ABOUT = {
    "style": "Four experts, each fine-tuned on a drawing style of its own.",
    "bootstrap": "Four experts, each fine-tuned on its own resample of the world's concepts.",
}
FORMS = {"style": forms.STYLE, "bootstrap": forms.BOOTSTRAP}


def ship(
    folder: Path,
    base: UNet,
    vae: VAE,
    text: TextEncoder,
    clip: CLIPModel,
    judge: Judge,
    families: Mapping[str, Sequence[Lesson]],
    experts: Mapping[str, UNet],
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    save_pipeline(folder / "base", base, vae, text, prediction_type="v")
    save_json(clip.config.to_dict(), folder / "clip" / "config.json")
    shown = {name: t for name, t in clip.state_dict().items() if not name.startswith(TEXT)}  # the base has the rest
    save_file(_half(shown), folder / "clip" / "model.safetensors")
    save_file(_half(judge.state_dict()), folder / "judge.safetensors")
    for family, lessons in families.items():
        (folder / family).mkdir()
        tables = [f'# {ABOUT[family]}\n\nbase = "base"\ntop = 2\n']
        for write, lesson in zip(FORMS[family], lessons, strict=True):
            source = f"{family}/{write(experts[lesson.name], folder / family / lesson.name)}"
            told = {"name": lesson.name, "source": source, "positive": lesson.positive, "negative": lesson.negative}
            tables.append("\n".join(["[[expert]]", *(f'{key} = "{value}"' for key, value in told.items()), ""]))
        (folder / f"{family}.toml").write_text("\n".join(tables), encoding="utf-8")


def _half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in state.items()}
