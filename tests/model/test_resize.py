"""New embedding rows against a plain mean written out here, and old logits bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hanlin.errors import UserError
from hanlin.model.resize import num_rows_for, resize_embeddings
from tiny import tiny_llama

OLD = 64
SPELLING = [[index] for index in range(OLD)] + [[3, 5], [7], [], [10, 11, 12, 10]]
"""64 old tokens; four new ones, of which the third is a pad token."""


def load(tmp_path: Path, *, tied: bool, dtype: str = "float32", **config: int) -> PreTrainedModel:
    folder = tiny_llama(tmp_path / "base", tied=tied, dtype=dtype, **config)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_old_tokens_stay_the_same_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    model = load(tmp_path, tied=tied)
    text = torch.arange(2, 62)[None]
    with torch.no_grad():
        before = model(text).logits
        resize_embeddings(model, 80, SPELLING)
        after = model(text).logits
    assert after.shape[-1] == 80
    assert torch.equal(before, after[..., :OLD])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_rows_are_means_of_their_spelling(tmp_path: Path, tied: bool, dtype: str) -> None:
    model = load(tmp_path, tied=tied, dtype=dtype)
    old = [model.get_input_embeddings().weight.detach().clone(), model.get_output_embeddings().weight.detach().clone()]
    resize_embeddings(model, 72, SPELLING)
    for weight, rows in zip(
        (model.get_input_embeddings().weight, model.get_output_embeddings().weight), old, strict=True
    ):
        assert weight.dtype == getattr(torch, dtype) and weight.shape[0] == 72
        assert torch.equal(weight[:OLD], rows)
        exact = rows.double()
        wanted = [(exact[3] + exact[5]) / 2, exact[7], exact.mean(0), (2 * exact[10] + exact[11] + exact[12]) / 4]
        wanted += [exact.mean(0)] * 4
        # float32 means: 1e-6; bfloat16 rounds once at the end, half a unit in the 8th bit of values below 1.
        torch.testing.assert_close(
            weight[OLD:].double(), torch.stack(wanted), rtol=4e-3 if dtype == "bfloat16" else 1e-6, atol=1e-6
        )
    assert model.config.vocab_size == 72
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_a_head_of_its_own_gets_its_own_means(tmp_path: Path) -> None:
    model = load(tmp_path, tied=False)
    resize_embeddings(model, 68, SPELLING)
    assert not torch.equal(model.get_input_embeddings().weight[OLD], model.get_output_embeddings().weight[OLD])


def test_padding_rows_of_the_model_are_used_for_new_tokens(tmp_path: Path) -> None:
    model = load(tmp_path, tied=False)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[60:] = 1000.0  # rows beyond a tokenizer of 60 tokens: whatever their maker left there
    spelling = [[index] for index in range(60)] + [[1, 2], []]
    resize_embeddings(model, 64, spelling)
    weight = model.get_input_embeddings().weight
    torch.testing.assert_close(weight[60], (weight[1] + weight[2]) / 2)
    torch.testing.assert_close(weight[61], weight[:60].mean(0))
    assert (weight[62:] == 1000.0).all()


def test_the_random_stream_does_not_notice_a_resize(tmp_path: Path) -> None:
    model = load(tmp_path, tied=False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    resize_embeddings(model, 80, SPELLING)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("num_rows", "spelling", "message"),
    [
        (63, SPELLING[:60], "rows are never cut off"),
        (66, SPELLING, "a row for each token"),
        (80, [[index] for index in range(70)], "only 64 rows"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    tmp_path: Path, num_rows: int, spelling: list[list[int]], message: str
) -> None:
    model = load(tmp_path, tied=False)
    with pytest.raises(UserError, match=message):
        resize_embeddings(model, num_rows, spelling)
    assert model.get_input_embeddings().weight.shape[0] == OLD


def test_rows_are_rounded_up_only_when_they_must_grow() -> None:
    assert num_rows_for(49_953, num_rows=32_000) == 49_953
    assert num_rows_for(49_953, num_rows=32_000, multiple=64) == 49_984
    assert num_rows_for(151_665, num_rows=151_936, multiple=1000) == 151_936
