"""The numbers of an SD1.5-shaped UNet."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetConfig:
    """Defaults are SD1.5's; smaller networks keep the topology and change the numbers."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)  # which levels have transformers
    depth: int = 2  # resnets per level on the way down; one more on the way up
    heads: int = 8  # everywhere, so head widths are 40, 80, 160
    groups: int = 32
    text_dim: int = 768
    latent_channels: int = 4
    sample_size: int = 64  # latent pixels per side that the network was trained on
