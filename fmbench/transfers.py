"""Between the host and a GPU: through pinned memory and without waiting, so that the GPU has its next batch before it is done with one."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 1 << 28
"""Bytes under way to the host at a time: pinned memory is not given back to the system."""


def sent(x: Tensor, device: torch.device | str, copy: bool = False) -> Tensor:
    """``x`` on a device, a ``copy`` also where it is there already. What a GPU does with it afterwards waits for it; the host does not."""
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device, copy=copy)


class Gathered:
    """Rows that are made part by part, on the host in the end."""

    def __init__(self) -> None:
        self.there: list[Tensor] = []
        self.coming: list[Tensor] = []
        self.bytes, self.device = 0, torch.device("cpu")

    def add(self, part: Tensor) -> None:
        """Take the next rows. On a GPU they are on their way when this returns, and the next may be made."""
        if part.device.type == "cpu":
            self.there.append(part)
            return
        self.device = part.device
        # Of a GPU's numbers this makes pinned memory, which must not be read before the device is done.
        self.coming.append(part.to("cpu", non_blocking=True))
        self.bytes += part.nbytes
        if self.bytes > MOST:
            self._arrive()

    def _arrive(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.coming:
            self.there.append(torch.cat(self.coming))
            self.coming, self.bytes = [], 0

    def whole(self) -> Tensor:
        """All rows so far, on the host. Raises ValueError when there are none."""
        self._arrive()
        return torch.cat(self.there)
