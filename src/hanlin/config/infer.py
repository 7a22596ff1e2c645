"""The settings of the verbs that answer: which model, how it draws its tokens, and what each verb reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hanlin.config.hub import HubConfig
from hanlin.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The model that answers. A folder written by pt, sft or merge is enough."""

    model: str | None = None
    """Folder of a model, of an adapter or of a training run (its adapter is found), or a hub id. An adapter brings
    its base, tokenizer, template and system prompt from its own record."""
    model_type: str | None = None
    """In place of --model, an id of the model catalog, such as qwen-7b-chat (hanlin models lists them)."""
    variant: str | None = None
    """Family of a checkpoint of 2023 whose config.json does not tell it, such as baichuan2-7b."""
    adapter: str | None = None
    """Folder of an adapter to put on --model. Without --model the base is read from the adapter's record."""
    tokenizer: str | None = None
    """Folder, tokenizer.model file or hub id of the tokenizer. Default: the adapter's, else the model's."""
    template: str = "auto"
    """Prompt template. none continues the text as it stands. auto: the one recorded with the adapter or model, else
    the tokenizer's own chat template, else none. published: the recorded one, else alpaca or llama2-zh by the
    tokenizer."""
    system: str | None = None
    """System prompt. Default: the recorded one, else the template's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto: the first GPU, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: float32 on a CPU, bfloat16 on a GPU. float16 on a CPU becomes bfloat16."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention of transformers. Default: sdpa where the model has it."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    cache_dir: str | None = None
    """Folder for downloaded models. Default: the hub client's own."""
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.model and self.model_type:
            raise UserError("--model_type", "and --model are both given", expected="one of them")
        if not self.model and not self.adapter and not self.model_type:
            raise UserError(
                "--model",
                "is missing",
                expected="the folder of a model, an adapter or a training run, or a hub id",
                mend="name it right after the verb or with --model",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How the next token is drawn. The defaults are those of the published inference script (spec 7.1)."""

    max_new_tokens: int = 400
    """Longest answer in tokens."""
    do_sample: bool = True
    """Draw tokens at random. false: always the most likely one."""
    temperature: float = 0.2
    """Divides the logits before drawing. 0 means the most likely token, like --do_sample false."""
    top_k: int = 40
    """Draw among this many most likely tokens. 0: among all."""
    top_p: float = 0.9
    """Draw among the most likely tokens that together reach this probability."""
    repetition_penalty: float = 1.1
    """Above 1 makes tokens that occurred before (prompt included) less likely."""
    num_beams: int = 1
    """Beams of beam search. Above 1 the answer appears at once instead of streaming."""
    seed: int | None = None
    """Makes drawn answers repeatable. Default: different each time."""

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("top_k", 0), ("num_beams", 1), ("temperature", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"--{name}", f"is {getattr(self, name)}", expected=f"{least} or more")
        if not 0 < self.top_p <= 1:
            raise UserError("--top_p", f"is {self.top_p}", expected="above 0 and at most 1")
        if not self.repetition_penalty > 0:
            raise UserError("--repetition_penalty", f"is {self.repetition_penalty}", expected="above 0; 1 is off")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError("--seed", f"is {self.seed}", expected="0 or more, below 2^63")

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return not self.do_sample or self.temperature == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """Talk with a model in the terminal."""

    positional: ClassVar[tuple[str, ...]] = ("model",)

    engine: EngineConfig
    generation: GenerationSettings
    end_on_empty_line: bool = False
    """End the chat when an empty line is entered, as the older inference script did. Default: an empty line does
    nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferConfig:
    """Answer a file of prompts, or one prompt."""

    positional: ClassVar[tuple[str, ...]] = ("model",)

    engine: EngineConfig
    generation: GenerationSettings
    prompts: str | None = None
    """File of prompts: .txt (one a line), or .json and .jsonl with Alpaca records, messages or plain strings."""
    prompt: str | None = None
    """One prompt. The answer is printed, and written only if --output is given."""
    output: str | None = None
    """File of answers. .json is one list, written at the end; .jsonl grows answer by answer and, run again, continues
    where it stopped. Default with --prompts: predictions.json."""
    batch_size: int = 1
    """Prompts answered at the same time."""

    def __post_init__(self) -> None:
        if (self.prompts is None) == (self.prompt is None):
            raise UserError(
                "--prompts",
                "is missing" if self.prompts is None else "and --prompt are both given",
                expected="either --prompts FILE or --prompt TEXT",
            )
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt", "is empty", expected="some text")
        if self.batch_size < 1:
            raise UserError("--batch_size", f"is {self.batch_size}", expected="1 or more")
        if self.output is not None and not self.output.lower().endswith((".json", ".jsonl")):
            raise UserError("--output", f"is {self.output!r}", expected="a name that ends in .json or .jsonl")
