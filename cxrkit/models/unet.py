"""A plain U-Net: the baseline of the segmenter. B batch, H W image."""

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.adain_networks import double


class UNet(nn.Module):
    """The plain baseline (Ronneberger et al. 2015) with batch norm: image (B, 1, H, W) -> dict
    `logits` (B, 1, H, W).

    H and W divisible by patch * 2^(len(widths) - 1). patch: the network works on squares of patch x
    patch pixels, side by side as channels; at 2 it is three times as fast as at 1 and hardly
    coarser.
    """

    def __init__(self, widths=(64, 128, 256, 512), patch=1):
        super().__init__()
        self.patch = patch
        self.down = nn.ModuleList(
            self._pair(a, b) for a, b in zip((patch**2, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            self._pair(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], patch**2, kernel_size=1)

    @staticmethod
    def _pair(channels, out):
        layers = [
            (
                nn.Conv2d(c, out, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            )
            for c in (channels, out)
        ]
        return nn.Sequential(*layers[0], *layers[1])

    def forward(self, image):
        kept, x = [], F.pixel_unshuffle(image, self.patch)  # (B, patch^2, H/patch, W/patch)
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([skip, double(x)], dim=1))
        return {"logits": F.pixel_shuffle(self.head(x), self.patch)}  # (B, 1, H, W)

    def draw(self, image):
        """Logits (B, 1, H, W) of the lungs."""
        return self(image)["logits"]
