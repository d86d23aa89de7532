"""Calibration of the six zone values of a severity map.

The value of a zone is the maximum of a map, and the maximum of many pixels is large even where none
shows disease. A zone's own slope and offset, fitted on patients that trained nothing
(`evaluation.platt`), turn it into how often such a zone is involved. The map stays as it is. This
is the kit's own, not the paper's.

B batch; an array is 3x2, as in `tasks.severity`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

NEAREST = 1e-4  # to 0 and 1, of a value whose log-odds are taken


class ZoneCalibration(nn.Module):
    """sigmoid(slope * logit(value) + offset) of each zone; begins as the identity."""

    slope: torch.Tensor
    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(3, 2))
        self.register_buffer("offset", torch.zeros(3, 2))

    def forward(self, array: torch.Tensor) -> torch.Tensor:
        """Calibrated values (B, 3, 2) of raw ones; a zone that is absent stays 0."""
        logits = torch.logit(array.clamp(NEAREST, 1 - NEAREST))
        calibrated = torch.sigmoid(self.slope * logits + self.offset)
        return torch.where(array > 0, calibrated, array)

    def set_lines(self, slope: np.ndarray, offset: np.ndarray) -> None:
        """Take the lines of `evaluation.platt.fit_zones`, (3, 2) each."""
        self.slope.copy_(torch.as_tensor(slope))
        self.offset.copy_(torch.as_tensor(offset))

    def lines(self) -> dict[str, list[list[float]]]:
        """Slope and offset of each zone, 3x2 each, as metrics.json and an export hold them."""
        return {"slope": self.slope.tolist(), "offset": self.offset.tolist()}
