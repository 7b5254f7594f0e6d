"""How well images fit: CLIP score against what they were asked for, SSIM against a ground truth.

Per prompt, both: means over a batch would hide what a study is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy
import torch
import transformers
from PIL import Image, ImageOps
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn.functional import cosine_similarity

from emoe.checkpoint.layout import weights
from emoe.checkpoint.open import open_folder
from emoe.errors import EmoeError, about, many
from emoe.miniature.clip import load_clip as load_miniature
from emoe.shipped import SHIPPED

USUAL = "openai/clip-vit-base-patch16"
MINIATURE = "miniature"


class Clip(Protocol):
    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """100 times the cosine between each picture and its text, (n,)."""


class PublishedClip:
    """Any CLIP in transformers' form, whole."""

    def __init__(self, name: str):
        """name: on the Hub, or a folder. EmoeError if there is no CLIP."""
        transformers.utils.logging.disable_progress_bar()
        with about(f"cannot load CLIP {name}, name another with --clip"):
            folder = _at_hand(name)
        try:
            model, told = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
            self.processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)  # which needs no torchvision
        except Exception as error:  # whatever a damaged file makes of the library
            reason = next(iter(str(error).split("\n")), "") or type(error).__name__
            raise EmoeError(f"cannot load CLIP {name}: {reason}; name another with --clip") from error
        if lacks := len(told["missing_keys"]):
            raise EmoeError(f"{name} is not a whole CLIP (it lacks {many(lacks, 'tensor')}); name another with --clip")
        self.model = model.eval().requires_grad_(False)

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        shown = self.processor(list(images), return_tensors="pt")["pixel_values"]
        longest = self.model.config.text_config.max_position_embeddings
        told = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        image, text = self.model.get_image_features(pixel_values=shown), self.model.get_text_features(**told)
        return 100 * cosine_similarity(image.pooler_output, text.pooler_output, dim=-1)


def _at_hand(name: str) -> Path:
    """A CLIP's folder; from the Hub, its weights and all small files are downloaded into one."""
    folder = open_folder(name)
    names = [file for file in folder.names() if file.endswith((".json", ".txt"))]
    files = [folder.path(file) for file in (*names, *weights(folder, "text_encoder"))]  # which go by the same names
    if not files:
        raise EmoeError("its folder holds no model")
    return files[0].parent


def load_clip(name: str) -> Clip:
    return load_miniature() if name == MINIATURE else PublishedClip(name)


def usual_clip(weights: str) -> str:
    """The name of the CLIP that goes with a mixture, where none is asked for."""
    return MINIATURE if weights in SHIPPED else USUAL


def open_truth(path: Path, size: int | None = None) -> Image.Image:
    """A ground truth, cut to a square about its middle, `size` pixels per side. EmoeError if unreadable."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EmoeError(f"cannot read the image {path}: {getattr(error, 'strerror', None) or error}") from error
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def ssim(image: Image.Image, truth: Image.Image) -> float:
    """Wang et al.'s settings: Gaussian windows of sigma 1.5, on colours from 0 to 255. Both of one size."""
    a, b = (numpy.asarray(x.convert("RGB")) for x in (image, truth))
    return float(
        structural_similarity(
            a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
