"""The SD1.5 autoencoder."""

from emoe.vae.config import VAEConfig
from emoe.vae.vae import VAE

__all__ = ["VAE", "VAEConfig"]
