"""A model that answers: opened from a model, an adapter or a training run, with the template that belongs to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hanlin.config.infer import EngineConfig, GenerationSettings
from hanlin.errors import UserError
from hanlin.infer.generate import Answer, PromptError, Row, generate_rows
from hanlin.infer.sources import Sources, find_sources
from hanlin.infer.stream import AnswerStream, TextStream
from hanlin.model.adapter import attach_adapter
from hanlin.model.choose import choose_model
from hanlin.model.entry import Entry
from hanlin.model.hub import Access, default_access
from hanlin.model.load import load_model
from hanlin.model.precision import DTYPES
from hanlin.template.published import PUBLISHED, published_template
from hanlin.template.render import Renderer
from hanlin.template.resolve import CHAT_TEMPLATE
from hanlin.tokens.encode import encode_prompt, encode_segments, open_renderer
from hanlin.tokens.images import ImageSlots, numbered, split_images, take_paths
from hanlin.types import Conversation, Message, Place, Segment
from hanlin.vocab.tokenizer import TextTokenizer

Notify = Callable[[str], None]

RAW_TEMPLATE = "none"
"""Name of the template that is none: the model continues the text."""

_CONTEXT_IDS = 8
"""Ids before a continued text that are decoded along with it: enough for the bytes of two characters."""


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A prompt that fits: ids, and the greatest number of tokens that may follow."""

    ids: list[int]
    limit: int
    images: tuple[str, ...] = ()
    """Paths of the pictures whose places are in the ids."""


class Engine:
    """One loaded model with its tokenizer and template. Calls from several threads take turns."""

    def __init__(
        self,
        model: Any,
        tokenizer: TextTokenizer,
        renderer: Renderer | None,
        *,
        stop: Sequence[str] = (),
        description: dict[str, Any] | None = None,
        notify: Notify = lambda line: None,
    ) -> None:
        """``model``: a causal language model of transformers or PEFT in eval mode; ``renderer`` None: no template.

        ``stop``: tokens at which training taught it to stop. ``notify`` takes each line that the user should read.
        Raises UserError when the tokenizer has more ids than the model has rows.
        """
        num_rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > num_rows:
            raise UserError(
                "--tokenizer",
                f"has {len(tokenizer):,} tokens, and the model {num_rows:,} rows",
                expected="a tokenizer of the model's own size",
                mend="name the tokenizer that the model was trained with, or leave --tokenizer out",
            )
        self.model = model
        self.tokenizer = tokenizer
        self.renderer = renderer
        self.images = ImageSlots.of(model.config, tokenizer)
        self.max_positions = _max_positions(model.config)
        self.stop_ids, self.stop_strings = _stops(model, tokenizer, renderer, stop)
        self._description = description or {}
        self._notify = notify
        self._turn = threading.Lock()

    @property
    def keeps_history(self) -> bool:
        """False without a template: then each text stands alone."""
        return self.renderer is not None

    def describe(self) -> dict[str, Any]:
        """What answers, as JSON values: sources, identities, template, system prompt."""
        return {
            **self._description,
            "tokenizer_identity": self.tokenizer.identity,
            "template": self.renderer.name if self.renderer else RAW_TEMPLATE,
            "system": self.renderer.system if self.renderer else None,
        }

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids that the model reads: the rendered conversation up to where the answer starts.

        Without a template: the tokenizer's prefix, BOS for most, and the texts as they stand. Raises UserError for a
        picture that cannot be read.
        """
        return self._prompt(messages)[0]

    def _prompt(self, messages: Sequence[Message]) -> tuple[list[int], tuple[str, ...]]:
        """Ids that the model reads and the paths of the pictures among them."""
        conversation = _conversation(messages)
        if self.renderer is not None:
            ids = encode_prompt(conversation, self.renderer, self.tokenizer, self.images)
        else:
            text = [Segment(self.prompt_text(messages), trained=False)]
            pieces = text if self.images is None else split_images(text, conversation)
            ids = list(self.tokenizer.prefix_ids) + encode_segments(pieces, self.tokenizer, self.images).ids
        if self.images is None:
            return ids, ()
        filled, paths = take_paths(ids, self.images)
        return filled.tolist(), tuple(paths)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text that the model reads, without a special token at its very start (published results lack it too)."""
        conversation = _conversation(messages)
        if self.images is not None:
            conversation = numbered(conversation)
        if self.renderer is None:
            return "".join(message.content for message in conversation.messages)
        segments = self.renderer.render(conversation, add_generation_prompt=True)
        if segments and segments[0].special:
            segments = segments[1:]
        return "".join(segment.text for segment in segments)

    def stream(self, messages: Sequence[Message], settings: GenerationSettings) -> AnswerStream[Answer]:
        """Pieces of the answer to ``messages`` while it is made; joined they are the text of ``generate``.

        Raises UserError at once when the prompt does not fit; with beams the answer is one piece.
        """
        fitted = self._fit(messages, settings)

        def run(emit: Callable[[str], None], cancelled: threading.Event) -> Answer:
            return self._answer([fitted], settings, emit=emit, cancelled=cancelled)[0]

        return AnswerStream(run)

    def generate(self, messages: Sequence[Message], settings: GenerationSettings) -> Answer:
        """The whole answer to ``messages``. Raises UserError when the prompt does not fit."""
        return self._answer([self._fit(messages, settings)], settings)[0]

    def generate_batch(self, conversations: Sequence[Sequence[Message]], settings: GenerationSettings) -> list[Answer]:
        """Answers to several conversations in one left-padded batch, each as if it were alone when greedy."""
        fitted = []
        for index, messages in enumerate(conversations):
            try:
                fitted.append(self._fit(messages, settings))
            except UserError as error:
                raise PromptError(index, error) from error
        answers: list[Answer | None] = [None] * len(fitted)
        # A row with less room than the others would be pushed past the model's last position by them: it goes alone.
        together = [index for index, row in enumerate(fitted) if row.limit == settings.max_new_tokens]
        groups = [together, *([index] for index in range(len(fitted)) if index not in together)]
        for group in groups:
            if group:
                for index, answer in zip(group, self._answer([fitted[i] for i in group], settings), strict=True):
                    answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _answer(
        self,
        prompts: Sequence[_Fitted],
        settings: GenerationSettings,
        *,
        emit: Callable[[str], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Answer]:
        rows = [
            Row(
                prompt.ids,
                TextStream(
                    self.tokenizer.decode,
                    stop=self.stop_strings,
                    context=() if self.renderer else prompt.ids[-_CONTEXT_IDS:],
                ),
                stop_ids=self.stop_ids,
                limit=prompt.limit,
                emit=emit,
                images=prompt.images,
            )
            for prompt in prompts
        ]
        with self._turn:
            return generate_rows(
                self.model,
                rows,
                settings,
                stop_ids=self.stop_ids,
                num_tokens=len(self.tokenizer),
                cancelled=cancelled,
                slots=self.images,
            )

    def _fit(self, messages: Sequence[Message], settings: GenerationSettings) -> _Fitted:
        """Leave out whole turns, the oldest first and never the system prompt, until the answer has room; say so."""
        for message in messages:
            _check_text(message.content)
        system, turns = _split_turns(messages)
        ids, images = self._prompt(messages)
        if not ids:
            raise UserError("the prompt", "is empty", expected="some text")
        limit, room = settings.max_new_tokens, self.max_positions
        if room is None or len(ids) + limit <= room:
            return _Fitted(ids, limit, images)
        whole, dropped = len(ids), 0
        while self.renderer is not None and len(turns) > 1 and len(ids) + limit > room:
            turns = turns[1:]
            dropped += 1
            ids, images = self._prompt([*system, *(message for turn in turns for message in turn)])
        if dropped:
            self._notify(
                f"the conversation has {whole:,} tokens, and with {limit:,} for the answer the model takes {room:,}: "
                f"the oldest {dropped} turns are left out"
            )
        if len(ids) >= room:
            raise UserError(
                "the prompt",
                f"has {len(ids):,} tokens",
                expected=f"fewer than {room:,}, which is all the model takes",
                mend="shorten it",
            )
        if len(ids) + limit > room:
            limit = room - len(ids)
            self._notify(f"the prompt has {len(ids):,} of the {room:,} tokens of the model: {limit:,} remain to answer")
        return _Fitted(ids, limit, images)


def open_engine(
    model: str | None = None,
    adapter: str | None = None,
    *,
    tokenizer: str | None = None,
    template: str | None = None,
    system: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    access: Access | None = None,
    chosen_hub: bool = False,
    variant: str | None = None,
    entry: Entry | None = None,
    notify: Notify = lambda line: None,
) -> Engine:
    """Load what ``model`` or ``adapter`` names. Either may be an adapter or a training run: base, tokenizer, template
    and system prompt then come from the adapter's record. What is given here goes first.

    ``template``: a name, "none" to continue text, None or "auto" for the recorded one, else that of ``entry``, the
    model's entry in the catalog. ``access`` says how hub ids are looked up (``find_sources``), ``variant``
    names the family of a checkpoint of 2023 that does not tell it. Raises UserError for everything that does not exist
    or does not fit, the tokenizer before any weight is loaded.
    """
    if not model and not adapter:
        raise UserError("--model", "is missing", expected="a folder or a hub id")
    sources = find_sources(
        model,
        adapter,
        tokenizer,
        access=access or default_access(),
        chosen_hub=chosen_hub,
        variant=variant,
        family=entry.family if entry is not None else None,
    )
    for line in sources.notices:
        notify(line)
    text_tokenizer = sources.tokenizer
    renderer = _renderer(sources, template, system, entry, notify)
    target = choose_device(device)
    torch_dtype = choose_dtype(dtype, target, notify)
    network = load_model(
        sources.directory,
        dtype=torch_dtype,
        attn_implementation=attn_implementation,
        variant=sources.variant,
        purpose="answers",
    )
    if sources.adapter is not None:
        network = attach_adapter(network, sources.adapter, trainable=False)
    return Engine(
        network.to(target).eval(),
        text_tokenizer,
        renderer,
        stop=sources.record.stop if sources.record is not None else (),
        description=sources.describe(),
        notify=notify,
    )


def open_configured(config: EngineConfig, notify: Notify) -> Engine:
    """``open_engine`` with the settings of a verb."""
    choice = choose_model(
        config.model, config.model_type, config.hub, revision=config.revision, cache_dir=config.cache_dir
    )
    for line in choice.notices:
        notify(line)
    return open_engine(
        choice.model,
        config.adapter,
        tokenizer=config.tokenizer,
        template=config.template,
        system=config.system,
        device=config.device,
        dtype=choice.dtype(config.dtype),
        attn_implementation=config.attn_implementation,
        access=choice.access,
        chosen_hub=config.hub.use_hf is not None,
        variant=config.variant,
        entry=choice.entry,
        notify=notify,
    )


def choose_device(name: str) -> torch.device:
    """The device called ``name``; auto: the first GPU, else the CPU. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError("--device", f"is {name!r}", expected="auto, cpu, cuda, cuda:N or mps") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        raise UserError("--device", f"{name} is not on this machine", mend="use --device auto")
    return device


def choose_dtype(name: str, device: torch.device, notify: Notify) -> torch.dtype:
    """The dtype called ``name`` (auto: float32 on a CPU, else bfloat16). float16 on a CPU becomes bfloat16, and a line
    says so: CPUs multiply float16 numbers up to 300 times more slowly."""
    if name == "auto":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            return torch.float16
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name == "float16" and device.type == "cpu":
        notify("float16 is very slow on a CPU: bfloat16 is used")
        return torch.bfloat16
    return DTYPES[name]


def _renderer(
    sources: Sources, template: str | None, system: str | None, entry: Entry | None, notify: Notify
) -> Renderer | None:
    """The renderer that was asked for, else the recorded one, else the entry's, else the tokenizer's own, else None."""
    tokenizer = sources.tokenizer
    if template == PUBLISHED:
        template = sources.template or published_template(len(tokenizer), tokenizer.pad_token) or CHAT_TEMPLATE
    if template in (None, "auto"):
        template = sources.template or (entry.template if entry is not None else None)
        if template is None and tokenizer.chat_template is None:
            if system:
                raise UserError("--system", "has no place without a template", mend="name one with --template")
            notify("no template is recorded: the text is continued as it stands (--template names one)")
            return None
    if template is not None and template.lower() == RAW_TEMPLATE:
        return None
    if system is None and template == sources.template:
        system = sources.system
    return open_renderer(template, tokenizer, system=system)


def _stops(
    model: Any, tokenizer: TextTokenizer, renderer: Renderer | None, taught: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Ids that end an answer, the template's first, then those that training ``taught``, and strings that do.

    The model's own generation settings may name further ids (families with two stop tokens); ids that are no special
    token of the tokenizer are left aside, because third-party checkpoints with wrong ids are in use.
    """
    ids: list[int] = []
    strings: list[str] = []
    for stop in renderer.stop if renderer else ():
        try:
            index = tokenizer.special_id(stop)
        except UserError:
            index = -1
        if index in tokenizer.special_ids:
            ids.append(index)
        else:
            strings.append(stop)
    known = set(tokenizer.pieces()) if taught else set()
    ids += [tokenizer.special_id(token) for token in taught if token in known]
    if tokenizer.eos_id is not None:
        ids.append(tokenizer.eos_id)
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own_ids = own if isinstance(own, list) else [own] if isinstance(own, int) else []
    starts = {tokenizer.bos_id} - {tokenizer.eos_id}
    ids += [index for index in own_ids if index in tokenizer.special_ids and index not in starts]
    return list(dict.fromkeys(ids)), tuple(strings)


def _max_positions(config: Any) -> int | None:
    """Longest row in tokens, prompt and answer together; None for models without a limit."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    value = getattr(text_config, "max_position_embeddings", None)
    return value if isinstance(value, int) and value > 0 else None


def _split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System messages at the start, and the turns: each a user message with all that follows up to the next."""
    system: list[Message] = []
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "system" and not turns:
            system.append(message)
        elif message.role == "user" or not turns:
            turns.append([message])
        else:
            turns[-1].append(message)
    return system, turns


def _conversation(messages: Sequence[Message]) -> Conversation:
    return Conversation(tuple(messages), Place("the conversation"))


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError("the prompt", "holds half of a surrogate pair", expected="whole characters") from error
