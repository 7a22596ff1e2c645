"""Base weights with an adapter in them, as an index of weights that computes a tensor when it is asked for.

``MergedWeights(MergedWeights(base, first), second)`` is a merge of two adapters in order. Writing it, hashing it and
comparing it with what lies on the disk are the same loop over names, with one tensor in memory at a time.

A low-rank update is W + s * (B @ A) with s = alpha / r (arXiv 2106.09685, section 4.1), or alpha / sqrt(r) for rsLoRA;
A is [r, in], B is [out, r], W is [out, in] and is transposed for modules that store [in, out] (``fan_in_fan_out``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hanlin.errors import UserError
from hanlin.model.adapter_files import INPUT_EMBEDDINGS, OUTPUT_HEADS, AdapterFiles, is_embedding
from hanlin.model.weights import TensorInfo, WeightIndex

HEAD = "lm_head.weight"
"""Name that an untied head gets: the families with tied embeddings call it so."""


def low_rank_update(a: Tensor, b: Tensor, scale: float, *, transposed: bool, dtype: torch.dtype) -> Tensor:
    """``scale * (b @ a)`` in ``dtype``, [out, in], or [in, out] when ``transposed``. ``a`` [r, in], ``b`` [out, r]."""
    update = (b.to(dtype) @ a.to(dtype)) * scale
    return update.T if transposed else update


def embedding_name(index: WeightIndex) -> str | None:
    """The input embedding among the tensors of ``index``."""
    return next((n for n in index.tensors if is_embedding(n) and n.split(".")[-2] in INPUT_EMBEDDINGS), None)


def head_name(names: Sequence[str] | Mapping[str, object]) -> str | None:
    """The output head among ``names``, which are tensors of a base."""
    return next((n for n in names if is_embedding(n) and n.split(".")[-2] in OUTPUT_HEADS), None)


class MergedWeights(WeightIndex):
    """The tensors of ``below`` with ``adapter`` merged in; its shapes are known and checked at once.

    ``tied``: the head of the model below is its embedding and not a tensor of its own. It stays so unless the adapter
    brings or updates a head that differs from the embedding; then ``tied`` of this index is False and it has a head.
    Tensors keep their dtype, so that merging two adapters at once gives the bytes of merging one after the other.
    ``dtype`` overrides the dtype of floating-point tensors. Raises UserError when the adapter does not fit.
    """

    def __init__(
        self, below: WeightIndex, adapter: AdapterFiles, *, tied: bool, dtype: torch.dtype | None = None
    ) -> None:
        self.below = below
        self.adapter = adapter
        self.full = adapter.full_tensors()
        self.pairs = {f"{module}.weight": (module, *pair) for module, pair in adapter.lora_pairs().items()}
        self._embedding = embedding_name(below)
        self.tied = tied and not self._brings_a_head()
        infos = [info for info in below.tensors.values() if not self._is_stale(info.name, tied)]
        self._untied_head = HEAD if tied and not self.tied else None
        if self._untied_head is not None:
            assert self._embedding is not None, "a tied model has an embedding"
            source = below.tensors[self._embedding]
            infos.append(TensorInfo(HEAD, source.dtype, source.shape, source.file))
        self._check_names({info.name for info in infos})
        super().__init__(below.files, [self._info(info, dtype) for info in infos])

    def load(self, name: str) -> Tensor:
        """The merged tensor, computed now."""
        return self.apply(name, self.load_below(name))

    def load_below(self, name: str) -> Tensor:
        """What the tensor is before this adapter; for a head that is no longer tied, the embedding it was tied to."""
        if name == self._untied_head:
            assert self._embedding is not None
            return self.below.load(self._embedding)
        return self.below.load(name)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """``weight`` (what ``load_below`` gives) with this adapter in it, in the dtype of this index.

        The update is computed and added in float32 and rounded once; PEFT rounds the update and then the sum.
        """
        dtype = self.tensors[name].dtype
        if name in self.full:
            return self.full_tensor(name).to(dtype)
        if name in self.pairs:
            exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
            update = self.update(name, exact)
            return (weight.to(exact) + update).to(dtype)
        return weight.to(dtype) if weight.is_floating_point() else weight

    def full_tensor(self, name: str) -> Tensor:
        """A tensor that the adapter trained in full, as the finished model holds it."""
        return self.finish(name, self.adapter.index.load(self.full[name]))

    def finish(self, name: str, tensor: Tensor) -> Tensor:
        """As the base below has it."""
        return self.below.finish(name, tensor)

    def update(self, name: str, dtype: torch.dtype) -> Tensor:
        """The low-rank update of a tensor in ``self.pairs``, in the shape of the tensor and in ``dtype``."""
        module, a, b = self.pairs[name]
        load = self.adapter.index.load
        return low_rank_update(
            load(a), load(b), self.adapter.scaling(module), transposed=self.adapter.fan_in_fan_out, dtype=dtype
        )

    def touches(self, name: str) -> bool:
        """Whether this adapter replaces or updates the tensor."""
        return name in self.full or name in self.pairs

    def changes_something(self) -> bool:
        """Whether any update is not zero, or any module is trained in full; B starts at zero and A does not."""
        load = self.adapter.index.load
        return bool(self.full) or any(bool(load(a).any()) and bool(load(b).any()) for _, a, b in self.pairs.values())

    def _brings_a_head(self) -> bool:
        """Whether the head can no longer be the embedding once this adapter is in."""
        head = head_name(self.full)
        if head is not None:
            embedding = next((n for n in self.full if is_embedding(n) and n != head), None)
            load = self.adapter.index.load
            return embedding is None or not torch.equal(load(self.full[head]), load(self.full[embedding]))
        touched = [n for n in self.pairs if n.split(".")[-2] in INPUT_EMBEDDINGS + OUTPUT_HEADS]
        if touched and any(is_embedding(name) for name in self.full):
            raise UserError(
                self.adapter.directory,
                f"trains {touched[0]} by a low-rank update and the embedding that it is tied to in full",
                expected="one of the two",
            )
        return bool(touched)

    def _is_stale(self, name: str, tied: bool) -> bool:
        """Tensors left out: rotary tables, which are computed, and a copy of a tied head, which would contradict it."""
        is_copy = tied and is_embedding(name) and name.split(".")[-2] in OUTPUT_HEADS
        return name.endswith("rotary_emb.inv_freq") or is_copy

    def _check_names(self, names: set[str]) -> None:
        if self.tied and (head := head_name(self.full)) is not None:
            del self.full[head]  # equal to the embedding, which stands for both
        missing = [name for name in (*self.full, *self.pairs) if name not in names]
        if missing:
            raise UserError(
                self.adapter.directory,
                f"changes {missing[0]}, which the base does not have ({len(missing)} such tensors)",
                mend="merge it into the base that it was trained on",
            )

    def _info(self, info: TensorInfo, dtype: torch.dtype | None) -> TensorInfo:
        shape = info.shape
        if info.name in self.full:
            shape = self.adapter.index.tensors[self.full[info.name]].shape
            resized = is_embedding(info.name) and shape[1:] == info.shape[1:] and shape[0] >= info.shape[0]
            if shape != info.shape and not resized:
                raise self._misfit(info, list(shape))
        if info.name in self.pairs:
            _, a, b = self.pairs[info.name]
            fits = (self.adapter.index.tensors[b].shape[0], self.adapter.index.tensors[a].shape[1])
            if (fits[::-1] if self.adapter.fan_in_fan_out else fits) != info.shape:
                raise self._misfit(info, list(fits))
        floating = info.dtype.is_floating_point
        return TensorInfo(info.name, dtype if dtype is not None and floating else info.dtype, shape, info.file)

    def _misfit(self, info: TensorInfo, shape: list[int]) -> UserError:
        return UserError(
            self.adapter.directory,
            f"its {info.name} is {shape} and the base has {list(info.shape)}",
            mend="merge it into the base that it was trained on",
        )


@dataclass(frozen=True, slots=True)
class TensorChange:
    """How far one tensor moved: sums of squares of the change and of the weight before, over rows that were there."""

    name: str
    kind: str
    """``updated`` by a low-rank update, ``replaced`` by a tensor trained in full, ``added`` (a head no longer tied),
    or ``kept``."""
    change: float
    weight: float
    new_rows: int

    @property
    def module(self) -> str:
        """Kind of module, such as ``q_proj``."""
        return self.name.split(".")[-2]


def measure(name: str, kind: str, before: Tensor, after: Tensor) -> TensorChange:
    """The change from ``before`` [V, ...] to ``after`` [V + new, ...], in float64 sums over float32 differences."""
    rows = min(before.shape[0], after.shape[0]) if before.dim() else 0
    new_rows = after.shape[0] - rows if after.dim() else 0
    old = before[:rows] if before.dim() else before
    new = after[:rows] if after.dim() else after
    change = weight = 0.0
    if kind == "kept":
        return TensorChange(name, kind, change, weight, new_rows)
    # In slices of rows: a vocabulary of 55,296 rows in float32 would be a second copy of the largest tensor.
    for start in range(0, rows, 4096):
        x, y = old[start : start + 4096].float(), new[start : start + 4096].float()
        change += float((y - x).square().sum(dtype=torch.float64))
        weight += float(x.square().sum(dtype=torch.float64))
    return TensorChange(name, kind, change, weight, new_rows)
