"""The numbers of an SD1.5-shaped autoencoder."""

from dataclasses import dataclass

LEVELS = range(2, 7)  # how many a VAE may have; SD1.5's has 4


@dataclass(frozen=True)
class VAEConfig:
    """Defaults are SD1.5's; smaller networks keep the topology and change the numbers."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    depth: int = 2  # resnets per level in the encoder; one more in the decoder
    groups: int = 32
    latent_channels: int = 4
    scaling: float = 0.18215  # brings latents to the unit variance that the UNet was trained on

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along a side: every level but the last halves the resolution."""
        return 2 ** (len(self.channels) - 1)
