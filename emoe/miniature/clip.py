"""The miniature's CLIP, whole: how well pictures fit texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from emoe.miniature import WEIGHTS
from emoe.miniature.judge import to_pixels

LENGTH = 77
TEXT = "text_model."


class Clip:
    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer):
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """100 times the cosine between each picture and its text, (n,)."""
        shown = self.model.get_image_features(pixel_values=to_pixels(images)).pooler_output
        told = self.model.get_text_features(input_ids=tokens(self.tokenizer, texts)).pooler_output
        return 100 * cosine_similarity(shown, told, dim=-1)


def load_clip() -> Clip:
    """Its text tower is the base's text encoder."""
    folder, base = WEIGHTS / "clip", WEIGHTS / "base"
    state = load_file(folder / "model.safetensors")
    state |= {TEXT + name: t for name, t in load_file(base / "text_encoder" / "model.safetensors").items()}
    model = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    return Clip(model.eval().requires_grad_(False), tokenizer)


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(b, n), padded with end tokens: nothing before them sees what comes after."""
    end = tokenizer.eos_token_id
    rows = [[*row[: LENGTH - 1], end] if len(row) > LENGTH else row for row in tokenizer(list(texts))["input_ids"]]
    longest = max(map(len, rows))
    return torch.tensor([row + [end] * (longest - len(row)) for row in rows])
