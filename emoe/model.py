"""The networks of a mixture, and a prompt's way into them.

Axes: b prompts, e experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from torch import Tensor

from emoe.choices import SPLITS
from emoe.config import Expert
from emoe.errors import EmoeError
from emoe.fingerprint import fingerprint
from emoe.gate import Gate, HiddenGate
from emoe.moe import layers_of
from emoe.notices import Notices
from emoe.route import HiddenRoute, PromptRoute, Route
from emoe.schedule import noise
from emoe.text import TextEncoder, TextStates
from emoe.unet import UNet
from emoe.vae import VAE

if TYPE_CHECKING:
    from emoe.generations import Recipe
    from emoe.scores import Reading

Sized = TypeVar("Sized", "Reading", "Recipe")


class Model:
    """A UNet with mixtures, a text encoder and a gate; a VAE where images are wanted."""

    def __init__(
        self,
        unet: UNet,
        text: TextEncoder,
        gate: Gate,
        split: str = "attn2",
        experts: Sequence[Expert] = (),
        prediction_type: str = "epsilon",
        load_vae: Callable[[], VAE] | None = None,
        downsampling: int = 8,
    ):
        """unet: with mixtures (`emoe.moe.mix`).  split: where samples become paths, a layer that is mixed.

        downsampling: image pixels per latent pixel, along a side; what the VAE will say, if it is ever loaded.
        The rest is for images: the experts' names, what the UNet predicts ("epsilon" or "v"), how to get a VAE.
        """
        if split not in SPLITS[layers_of(unet)]:
            raise EmoeError(f"split is {split!r}, where nothing is mixed; choose one of {SPLITS[layers_of(unet)]}")
        self.unet, self.text, self.gate, self.split = unet, text, gate, split
        self.experts, self.prediction_type, self._load_vae = tuple(experts), prediction_type, load_vae
        self.downsampling = downsampling
        self._notices = Notices(text.length)
        self.device, self.dtype = unet.conv_in.weight.device, unet.conv_in.weight.dtype
        settings = type(gate).__name__, gate.settings, split, unet.config, downsampling, text.settings
        captured = isinstance(gate, HiddenGate) and gate.captured_from  # from what the settings hold
        self.mixture = fingerprint(settings, unet, text.model, gates=not captured)

    def __repr__(self) -> str:
        kind, dtype = type(self.gate).__name__, str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.gate.experts} experts, {kind}, {self.device}, {dtype}, {self.mixture})"

    @cached_property
    def vae(self) -> VAE:
        """Loaded when it is first asked for: scoring never does. EmoeError if it cannot read the UNet's latents."""
        if self._load_vae is None:
            raise EmoeError("this model was made without a VAE, which images need; give it load_vae")
        vae = self._load_vae()
        if vae.config.downsampling != self.downsampling:
            raise EmoeError(
                f"the VAE makes {vae.config.downsampling} pixels of a latent one, and {self.downsampling} were "
                "expected: the config.json that belongs to it is missing or wrong; name a folder with both under vae"
            )
        ours, theirs = self.unet.config.latent_channels, vae.config.latent_channels
        if ours != theirs:
            raise EmoeError(
                f"the VAE reads latents of {theirs} channels, the UNet draws {ours}; name another under vae"
            )
        return vae

    @cached_property
    def vae_mark(self) -> str:
        """Eight digits that tell one VAE, and how its latents are read, from another."""
        return fingerprint((self.vae.config, self.prediction_type), self.vae)

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """The text states of b prompts; warns of those that are cut, and of markup that is plain text here."""
        self._check_precision()
        text = self.text(list(prompts))
        self._notices.of(text)
        return text

    def _check_precision(self) -> None:
        """EmoeError where numbers would not be those of the dtype that the mixture was loaded in."""
        remedy = "load the mixture with the dtype that you want"
        if torch.is_autocast_enabled(self.device.type):
            raise EmoeError(f"torch.autocast is on, which changes every number; leave its block, and {remedy}")
        if self.unet.conv_in.weight.dtype != self.dtype:
            raise EmoeError(f"the UNet was converted to another dtype after it was loaded; {remedy}")

    def route(self, text: TextStates, negative: TextStates | None, halves: int = 1, split: bool = True) -> Route:
        """The prompts' route, over halves·b rows: under guidance (halves = 2) it serves both halves."""
        weights = self.gate(text, negative)  # (b, e)
        where = self.split if split else None
        if weights is None:
            return HiddenRoute(halves * len(text.prompts), self.gate.experts, self.gate.top, where, halves)
        return PromptRoute(weights, where, self.device, self.dtype, halves)

    @property
    def own_size(self) -> int:
        """Pixels per side of the images that the checkpoint learnt to draw."""
        return self.unet.config.sample_size * self.downsampling

    def latent_shape(self, size: int) -> tuple[int, int, int, int]:
        """(1, 4, h, w), of an image `size` pixels wide and high."""
        side = size // self.downsampling
        return 1, self.unet.config.latent_channels, side, side

    def noise(self, seed: int, size: int | None = None) -> Tensor:
        """Where the run of a seed starts, float32, the same for every prompt. size: default the own one."""
        return noise(seed, self.latent_shape(size or self.own_size)).to(self.device)

    def at_own_size(self, asked: Sized) -> Sized:
        """A reading or a recipe, with the checkpoint's own size where it names none. EmoeError if none of it fits."""
        sized = asked if asked.size else replace(asked, size=self.own_size)
        if sized.size % (step := 8 * self.downsampling):  # the UNet halves the latents three times
            raise EmoeError(f"size is {sized.size} pixels; with this model's VAE it must be a multiple of {step}")
        return sized

    def variant(self, gate: Gate | None = None, split: str | None = None) -> Self:
        """The same networks with another gate or split."""
        return type(self)(
            self.unet,
            self.text,
            gate or self.gate,
            split or self.split,
            self.experts,
            self.prediction_type,
            self._load_vae,
            self.downsampling,
        )
