"""The dense SD1.5 UNet."""

from emoe.unet.config import UNetConfig
from emoe.unet.unet import UNet, UNetOutput

__all__ = ["UNet", "UNetConfig", "UNetOutput"]
