"""The chunked loss equals the plain one, in value and gradient, in every model that it can meet."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from hanlin.model.cross_entropy import direct_head
from hanlin.model.loss import (
    attach_checked_loss,
    attach_loss,
    causal_lm_loss,
    check_parity,
    linear_cross_entropy,
    plain_loss,
)
from hanlin.types import IGNORE_INDEX

V, D = 53, 16
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama(tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    for parameter in model.parameters():  # larger than the usual start, so that logits and losses differ by token
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def lora(model: nn.Module, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide the gradient of lora_A
            nn.init.normal_(parameter, std=0.1)
    return adapted


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODELS: dict[str, Callable[[], nn.Module]] = {
    "untied": llama,
    "tied": lambda: llama(tied=True),
    "lora": lambda: lora(llama(), target_modules=LINEAR),
    "lora, modules_to_save": lambda: lora(llama(), target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head"]),
    "lora on tied": lambda: lora(llama(tied=True), target_modules=LINEAR),
    "lora on lm_head": lambda: lora(llama(), target_modules=[*LINEAR, "lm_head"]),
}


def batch(rows: int = 3, tokens: int = 11) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, V, (rows, tokens), generator=generator)
    trained = torch.rand(rows, tokens, generator=generator) < 0.5
    trained[:, 0] = False
    return {"input_ids": ids, "labels": torch.where(trained, ids, IGNORE_INDEX)}


def count(labels: Tensor) -> int:
    return int((labels != IGNORE_INDEX).sum())


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found
    return found


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], rtol: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        scale = other[name].abs().max()
        assert (one[name] - other[name]).abs().max() <= rtol * scale + 1e-12, name


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean distance of all gradients together, relative to the length of ``other``."""
    assert one.keys() == other.keys()
    first, second = (torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (one, other))
    return float((first - second).norm() / second.norm())


# -- the function ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 40, None])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_function_equals_cross_entropy_in_float64(chunk_size: int | None, with_bias: bool, reduction: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(40, D, generator=generator)
    weight = torch.randn(V, D, generator=generator)
    bias = torch.randn(V, generator=generator) if with_bias else None
    targets = torch.randint(0, V, (40,), generator=generator)
    targets[::5] = IGNORE_INDEX
    ours = [tensor.clone().requires_grad_() if tensor is not None else None for tensor in (hidden, weight, bias)]
    theirs = [tensor.double().requires_grad_() if tensor is not None else None for tensor in (hidden, weight, bias)]
    loss = linear_cross_entropy(ours[0], ours[1], targets, bias=ours[2], chunk_size=chunk_size, reduction=reduction)
    plain = functional.cross_entropy(functional.linear(*theirs), targets, reduction=reduction)
    assert loss.dtype == torch.float32
    # float32 has 24 bits: sums of 40 x 53 numbers keep six digits.
    torch.testing.assert_close(loss.double(), plain, rtol=1e-6, atol=0)
    (loss * 3).backward()
    (plain * 3).backward()
    for one, other in zip(ours, theirs, strict=True):
        if one is not None:
            assert (one.grad.double() - other.grad).abs().max() <= 2e-6 * other.grad.abs().max()


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 2e4  # nothing for the right answer, the distance of the logits for the wrong one
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize("way", ["bf16 tensors", "autocast"])
def test_bf16_is_as_exact_as_the_plain_way(way: str) -> None:
    """bf16 keeps 8 bits. Products are rounded to it in both ways, the softmax is float32 in both; so against float64
    ours may differ as much as the plain way does, and both by about 2**-8 of the largest gradient."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(64, D, generator=generator).bfloat16().float()
    weight = torch.randn(V, D, generator=generator).bfloat16().float()
    targets = torch.randint(0, V, (64,), generator=generator)

    def run(loss_of: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, autocast: bool) -> list[Tensor]:
        h, w = (tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight))
        with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            loss = loss_of(h, w)
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        assert h.grad.dtype == w.grad.dtype == dtype
        return [loss.detach().double(), h.grad.double(), w.grad.double()]

    def plain(h: Tensor, w: Tensor) -> Tensor:
        logits = functional.linear(h, w)
        return functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets)

    def chunked(h: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(h, w, targets, chunk_size=10, reduction="mean")

    autocast = way == "autocast"
    dtype = torch.float32 if autocast else torch.bfloat16
    exact = run(plain, torch.float64, False)
    theirs = run(plain, dtype, autocast)
    ours = run(chunked, dtype, autocast)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        scale = true.abs().max()
        error, allowed = (mine - true).abs().max() / scale, (other - true).abs().max() / scale
        assert error <= max(1.5 * float(allowed), 2**-8), (error, allowed)


def test_frozen_weight_gets_no_gradient_and_costs_none() -> None:
    hidden = torch.randn(300, D, requires_grad=True)
    weight = torch.randn(V * 40, D)
    targets = torch.randint(0, V * 40, (300,))
    loss = linear_cross_entropy(hidden, weight, targets, chunk_size=8)
    assert loss.grad_fn is not None
    saved = [tensor for tensor in loss.grad_fn.grads if tensor is not None]
    assert [tuple(tensor.shape) for tensor in saved] == [(300, D)]
    loss.backward()
    assert weight.grad is None
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, targets).grad_fn is None


def test_backward_runs_once() -> None:
    hidden = torch.randn(3, D, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(V, D), torch.tensor([1, 2, 3]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that tensors held at one time beyond those at the start, from torch's own allocation records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("train_weight", [False, True])
def test_no_tensor_of_tokens_by_vocabulary(train_weight: bool) -> None:
    n, v, d = 2048, 32_000, 64
    hidden = torch.randn(n, d, requires_grad=True)
    weight = torch.randn(v, d, requires_grad=train_weight)
    targets = torch.randint(0, v, (n,))

    def plain() -> None:  # an eighth of the tokens, to be quick
        functional.cross_entropy(hidden[: n // 8] @ weight.T, targets[: n // 8]).backward()

    logits = n * v * 4
    assert peak_bytes(plain) >= 2 * logits / 8  # the measure works: logits and their gradient
    ours = peak_bytes(lambda: linear_cross_entropy(hidden, weight, targets).backward())
    # One chunk (131 rows) of logits and of log-probabilities, 34 MB; and gradients, 9 MB. Logits alone are 262 MB.
    assert ours < 0.2 * logits, ours


# -- inside a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["float32", "autocast", "checkpointing"])
@pytest.mark.parametrize("items", ["own", "given"])
def test_equals_the_models_own_loss(name: str, mode: str, items: str) -> None:
    model = MODELS[name]()
    if mode == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    inputs = batch()
    extra = {"num_items_in_batch": torch.tensor(40)} if items == "given" else {}

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", dtype=torch.bfloat16) if mode == "autocast" else nullcontext():
            output = model(**inputs, **extra)
        return output.loss.detach(), gradients(model, output.loss)

    plain_value, plain = step()
    with attach_loss(model, chunk_size=4):
        value, ours = step()
        output = model(**inputs)
    assert output.logits is None
    assert "num_correct" not in output
    if mode == "autocast":
        # Both ways round to bf16, in another order. Neither is the truth: ours may be as far from float32 as theirs.
        mode = "float32"
        true_value, true = step()
        torch.testing.assert_close(value, true_value, rtol=2**-8, atol=0)
        assert distance(ours, true) <= 1.2 * distance(plain, true) < 0.1
    else:
        torch.testing.assert_close(value, plain_value, rtol=1e-6, atol=0)
        assert_same_gradients(ours, plain, 5e-6)
    assert any("lm_head" in key for key in ours) == (name in ("untied", "lora, modules_to_save", "lora on lm_head"))


def test_every_kind_of_head_takes_its_way() -> None:
    def head(name: str) -> nn.Module:
        model = MODELS[name]()
        return (model.get_base_model() if name.startswith("lora") else model).get_output_embeddings()

    assert direct_head(head("untied")) is not None
    saved = head("lora, modules_to_save")
    assert direct_head(saved) is saved.modules_to_save["default"]
    saved.enable_adapters(False)
    assert direct_head(saved) is saved.original_module
    assert direct_head(head("lora on lm_head")) is None

    class NormHead(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, functional.normalize(self.weight))

    assert direct_head(NormHead(D, V)) is None
    hooked = nn.Linear(D, V)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    assert direct_head(hooked) is None
    # A head that must be called gives what calling it gives.
    hidden = torch.randn(2, 9, D, requires_grad=True)
    labels = torch.randint(0, V, (2, 9))
    for module in (NormHead(D, V), hooked):
        ours = causal_lm_loss(module, hidden, labels, chunk_size=4)
        theirs = plain_loss(module(hidden), labels)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        one, other = (torch.autograd.grad(loss, [hidden, module.weight]) for loss in (ours, theirs))
        for mine, plain in zip(one, other, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-7)


def test_eight_micro_batches_are_one_batch_of_eight() -> None:
    model = llama()
    whole = batch(rows=8)
    items = count(whole["labels"])
    with attach_loss(model):
        large = gradients(model, model(**whole, num_items_in_batch=items).loss)
        model.zero_grad()
        total = 0.0
        for row in range(8):
            loss = model(**{k: v[row : row + 1] for k, v in whole.items()}, num_items_in_batch=items).loss
            loss.backward()
            total += loss.item()
        own = model(**whole).loss.item()
    small = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(small, large, 1e-5)
    assert total == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize("name", ["untied", "lora on lm_head"])
def test_a_batch_without_trained_tokens_is_a_zero_that_reaches_all(name: str) -> None:
    model = MODELS[name]()
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORE_INDEX)
    with attach_loss(model):
        loss = model(**inputs).loss
    assert loss.item() == 0
    found = gradients(model, loss)
    assert found.keys() == {key for key, p in model.named_parameters() if p.requires_grad}
    assert all((gradient == 0).all() for gradient in found.values())


@pytest.mark.parametrize("plain", [False, True])
def test_sums_of_an_evaluation(plain: bool) -> None:
    model = llama().eval()
    inputs = batch()
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"]).logits
        with attach_loss(model, plain=plain, chunk_size=4):
            output = model(**inputs)
    nll, right, tokens = 0.0, 0, 0
    for row, labels in enumerate(inputs["labels"].tolist()):
        for at, label in enumerate(labels):
            if label != IGNORE_INDEX:
                scores = logits[row, at - 1].double()
                nll -= float(scores.log_softmax(-1)[label])
                right += int(scores.argmax()) == label
                tokens += 1
    assert output.num_tokens.item() == tokens
    assert output.num_correct.item() == right
    assert output.nll_sum.item() == pytest.approx(nll, rel=1e-6)
    assert output.loss.item() == pytest.approx(nll / tokens, rel=1e-6)


def test_correct_predictions_are_counted() -> None:
    """The answers that the model itself would give are all right; the same through a head that must be called."""
    for name in ("untied", "lora on lm_head"):
        model = MODELS[name]().eval()
        ids = batch()["input_ids"]
        with torch.no_grad():
            best = model(input_ids=ids).logits.argmax(-1)
            labels = functional.pad(best[:, :-1], (1, 0), value=IGNORE_INDEX)
            labels[0, 1] = (labels[0, 1] + 1) % V
            with attach_loss(model, chunk_size=4):
                output = model(input_ids=ids, labels=labels)
        assert output.num_correct.item() == output.num_tokens.item() - 1 == 29


def test_attach_and_detach() -> None:
    model = llama()
    inputs = batch()
    attached = attach_loss(model)
    # The Trainer decides by **kwargs whether the model divides by num_items_in_batch; accelerate wraps __func__.
    assert any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())
    assert isinstance(model.forward, MethodType)
    with pytest.raises(ValueError, match="attached to this model already"):
        attach_loss(model)
    with pytest.raises(ValueError, match="no attention_mask"):
        model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]))
    # Without labels it is the model's own forward: logits, cache, generation.
    model.eval()
    assert model(inputs["input_ids"], use_cache=True).past_key_values is not None
    assert model.generate(inputs["input_ids"][:1], max_new_tokens=2, do_sample=False).shape == (1, 13)
    attached.detach()
    assert "forward" not in vars(model)
    assert model(**inputs).logits is not None
    # A wrapper that was put around ours stays, and reaches the old forward after detach.
    attached = attach_loss(model)
    ours = model.forward
    model.forward = MethodType(lambda self, *args, **kwargs: ours(*args, **kwargs), model)
    assert model(**inputs).logits is None
    attached.detach()
    assert model(**inputs).logits is not None


def test_a_copy_of_a_model_detaches_cleanly() -> None:
    model = llama()
    with attach_loss(model):
        pass
    assert copy.deepcopy(model)(**batch()).logits is not None


def test_under_distributed_data_parallel(tmp_path: Path) -> None:
    model = lora(llama(), target_modules=LINEAR, modules_to_save=["lm_head"])
    inputs = batch()
    plain = gradients(model, model(**inputs).loss)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with attach_loss(wrapped):
            ours = gradients(model, wrapped(**inputs).loss)
    finally:
        torch.distributed.destroy_process_group()
    assert_same_gradients(ours, plain, 5e-6)


# -- parity and the fallback -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_parity_of_ordinary_models(name: str) -> None:
    model = MODELS[name]()
    ids = batch()["input_ids"]
    assert check_parity(model, ids) < 1e-5
    assert model.training
    attached, notice = attach_checked_loss(model, ids)
    assert not attached.plain
    assert notice is None


def test_parity_with_half_weights_and_float32_embeddings() -> None:
    model = llama().bfloat16()
    assert check_parity(model, batch()["input_ids"]) < 2e-2
    model.model.embed_tokens.float()  # trained embeddings: needs autocast, which the check brings itself
    assert attach_checked_loss(model, batch()["input_ids"])[1] is None


def softcapped() -> nn.Module:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0, attn_implementation="eager")
    return Gemma2ForCausalLM(config)


def scaled() -> nn.Module:
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625))


def balanced() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True))


@pytest.mark.parametrize("make", [softcapped, scaled, balanced])
def test_models_that_do_more_than_their_head_fall_back(make: Callable[[], nn.Module]) -> None:
    """Soft-capped logits, scaled logits, a load-balancing term: found even while the logits are small."""
    torch.manual_seed(5)
    model = make()
    inputs = batch()
    assert check_parity(model, inputs["input_ids"]) > 1e-3
    plain_value = model(**inputs).loss
    plain_gradients = gradients(model, plain_value)
    attached, notice = attach_checked_loss(model, inputs["input_ids"])
    assert attached.plain
    assert notice is not None
    assert type(model).__name__ in notice
    output = model(**inputs)
    assert output.logits is None
    torch.testing.assert_close(output.loss, plain_value, rtol=1e-6, atol=0)
    assert_same_gradients(gradients(model, output.loss), plain_gradients, 1e-5)
    attached.detach()


def test_plain_loss_has_the_same_meaning() -> None:
    logits = torch.randn(2, 5, V)
    labels = torch.tensor([[IGNORE_INDEX, 3, 4, IGNORE_INDEX, 5], [IGNORE_INDEX] * 5])
    by_hand = -sum(logits[0, at - 1].log_softmax(-1)[labels[0, at]] for at in (1, 2, 4))
    torch.testing.assert_close(plain_loss(logits, labels), by_hand / 3)
    torch.testing.assert_close(plain_loss(logits, labels, 7), by_hand / 7)
