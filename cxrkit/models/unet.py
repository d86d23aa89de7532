"""A plain U-Net: the baseline of the segmenter.

B batch, C channels, H W image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.adain_networks import upsample


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with batch norm.

    Args:
        widths: channels at each resolution, from the image down.
        patch: the network works on squares of patch x patch pixels, side by side as channels. At 2
            it is three times as fast as at 1 and hardly coarser.

    Example:
        >>> UNet(widths=(4, 8))(torch.zeros(1, 1, 32, 32))["logits"].shape
        torch.Size([1, 1, 32, 32])
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512), patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.down = nn.ModuleList()
        for channels, out in zip((patch**2, *widths), widths, strict=False):
            self.down.append(_double_conv(channels, out))
        self.up = nn.ModuleList()
        for out, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.up.append(_double_conv(out + below, out))
        self.head = nn.Conv2d(widths[0], patch**2, kernel_size=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Segment the lungs.

        Args:
            image: (B, 1, H, W), H and W divisible by patch * 2^(len(widths) - 1).

        Returns:
            `logits` (B, 1, H, W).
        """
        x = F.pixel_unshuffle(image, self.patch)  # (B, patch^2, H/patch, W/patch)
        x = self.down[0](x)  # (B, widths[0], H/patch, W/patch)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))  # half the size at each step
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([skip, upsample(x)], dim=1))  # twice the size at each step
        return {"logits": F.pixel_shuffle(self.head(x), self.patch)}  # (B, 1, H, W)

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Segment the lungs: (B, 1, H, W) -> logits (B, 1, H, W), as `Generator.segment`."""
        return self(image)["logits"]


def _double_conv(channels: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )
