"""Consolidated ``pth`` files on disk: written with the memory of one group of tensors, and read back by our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hanlin.export import pth
from hanlin.export.merged import HEAD, embedding_name, head_name
from hanlin.export.shards import plan_shards
from hanlin.model.weights import WeightIndex

PLACE = "--output_type"


class PthWriter:
    """Groups of tensors to ``consolidated.0{i}.pth``.

    ``torch.save`` writes a dict at once. So the parts of each group go to small safetensors files first; in the end the
    parts of one consolidated file are opened as memory maps, whose pages are read while torch writes them and can be
    dropped again. The disk needs room for the weights twice, the memory for one group.
    """

    def __init__(self, folder: Path, layout: pth.PthLayout, weights: WeightIndex, max_group_bytes: int) -> None:
        self.folder = folder
        self.layout = layout
        sizes = {name: info.nbytes for name, info in weights.tensors.items() if not pth.is_dropped(name)}
        for name in sizes:
            pth.pth_name(name, PLACE)  # a tensor without a pth form is refused before the first is written
        self.groups = plan_shards(sizes, max_group_bytes)
        # The format always has a head of its own.
        self._tied_embedding = embedding_name(weights) if head_name(weights.tensors) is None else None
        self._parked: list[list[Path]] = [[] for _ in range(layout.num_shards)]

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Park one group."""
        parts = dict(pth.to_parts(name, tensor, self.layout, PLACE) for name, tensor in tensors.items())
        if self._tied_embedding is not None and self._tied_embedding in tensors:
            name, cut = pth.to_parts(HEAD, tensors[self._tied_embedding], self.layout, PLACE)
            parts[name] = cut
        for i, files in enumerate(self._parked):
            path = self.folder / f".part-{i}-{len(files):05d}.safetensors"
            save_file({name: cut[i] for name, cut in parts.items()}, path)
            files.append(path)

    def finish(self) -> None:
        """Unite the parts and remove them."""
        for i, files in enumerate(self._parked):
            united: dict[str, Tensor] = {}
            for path in files:
                with safe_open(path, framework="pt") as opened:
                    united.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
            torch.save(united, self.folder / f"consolidated.{i:02d}.pth")
            united.clear()
            for path in files:
                path.unlink()


class PthWeights(WeightIndex):
    """Consolidated files under the names, shapes and row order of transformers; ``expected`` says which tensors."""

    def __init__(self, folder: Path, layout: pth.PthLayout, expected: WeightIndex) -> None:
        files = [folder / f"consolidated.{i:02d}.pth" for i in range(layout.num_shards)]
        super().__init__(files, [info for name, info in expected.tensors.items() if not pth.is_dropped(name)])
        self.layout = layout
        self._opened: list[dict[str, Tensor]] = [
            torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files
        ]

    def load(self, name: str) -> Tensor:
        """A tensor joined from its parts, q and k back in rotate-half order."""
        target, _ = pth.pth_name(name, PLACE)
        return pth.from_parts(name, [opened[target] for opened in self._opened], self.layout, PLACE)
