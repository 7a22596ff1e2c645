"""The terminal chat: lines in, streamed answers out, history kept. Without a terminal it can be piped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.text import Text

from hanlin.config.infer import GenerationSettings
from hanlin.errors import UserError, did_you_mean
from hanlin.files import write_json
from hanlin.infer.generate import Answer
from hanlin.infer.stream import AnswerStream
from hanlin.types import Message

HELP = """\
/help          this list
/clear         start a new conversation (the system prompt stays)
/system TEXT   set the system prompt and start anew; without TEXT go back to the default one
/save FILE     write the conversation as JSON messages, a format that hanlin sft reads
/exit          end (also Ctrl-D)
A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer. A message that begins with a slash is written with two."""

COMMANDS = ("/help", "/clear", "/system", "/save", "/exit", "/quit")

_BLOCK = '"""'
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which a terminal would obey (move the cursor, set the title); never shown."""


class Talker(Protocol):
    """The part of the engine that a chat uses."""

    @property
    def keeps_history(self) -> bool:
        """False when each text stands alone (no template)."""

    def stream(self, messages: list[Message], settings: GenerationSettings) -> AnswerStream[Answer]:
        """Pieces of the answer to the last message."""


class Chat:
    """One chat: the conversation so far and what to do with each line.

    ``read(prompt)`` gives the next line without its line break and raises EOFError at the end. Answers go to ``out``;
    everything else goes to ``err``. ``interactive`` shows prompts and hints.
    """

    def __init__(
        self,
        engine: Talker,
        settings: GenerationSettings,
        *,
        read: Callable[[str], str],
        out: Console,
        err: Console,
        interactive: bool,
        end_on_empty_line: bool = False,
    ) -> None:
        self.history: list[Message] = []
        self.system: str | None = None
        self._engine = engine
        self._settings = settings
        self._read = read
        self._out = out
        self._err = err
        self._interactive = interactive
        self._end_on_empty_line = end_on_empty_line
        self._saved: set[Path] = set()

    def run(self) -> int:
        """Answer lines until they end; returns the exit status."""
        if self._interactive:
            self._say("/help lists the commands, Ctrl-D ends")
        while True:
            try:
                text = self._next_text()
            except EOFError:
                if self._interactive:
                    self._out.print()
                return 0
            except KeyboardInterrupt:
                self._say("\nCtrl-D or /exit ends")
                continue
            if not text.strip():
                if self._end_on_empty_line:
                    return 0
                continue
            if text.startswith("/") and not text.startswith("//"):
                if self._command(text.strip()):
                    return 0
                continue
            self._answer(text[1:] if text.startswith("//") else text)

    def _next_text(self) -> str:
        """One message, which may take several lines; raises EOFError when there is none."""
        line = self._read_line(">>> ")
        if line.lstrip().startswith(_BLOCK):
            return self._block(line.lstrip()[len(_BLOCK) :])
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._read_line("... "))
            except EOFError:
                break
        return "\n".join(lines)

    def _block(self, line: str) -> str:
        """Lines up to the closing quotes, or up to the end of the input."""
        lines = []
        while not line.rstrip().endswith(_BLOCK):
            lines.append(line)
            try:
                line = self._read_line("... ")
            except EOFError:
                return "\n".join(lines)
        lines.append(line.rstrip()[: -len(_BLOCK)])
        return "\n".join(lines).strip("\n")

    def _read_line(self, prompt: str) -> str:
        try:
            line = self._read(prompt if self._interactive else "")
            line.encode("utf-8")  # bytes of another encoding arrive as lone surrogates, which no tokenizer takes
        except UnicodeError as error:
            raise UserError("the input", "is not UTF-8", mend="set the terminal or the file to UTF-8") from error
        return line.rstrip("\r\n")

    def _command(self, text: str) -> bool:
        """Carry out a slash command; True when it ends the chat."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit"):
            return True
        if name == "/help":
            self._say(HELP)
        elif name == "/clear":
            self.history.clear()
            self._say("new conversation")
        elif name == "/system":
            self.system = rest or None
            self.history.clear()
            self._say("new conversation with " + ("this system prompt" if rest else "the default system prompt"))
        elif name == "/save":
            self._save(rest)
        else:
            hint = did_you_mean(name, COMMANDS) or "/help lists the commands"
            self._say(f"{name} is not a command; {hint}")
        return False

    def _answer(self, text: str) -> None:
        """Stream the answer to ``text`` and keep both; a faulty question is told and forgotten."""
        question = Message("user", text)
        stopped = False
        try:
            stream = self._engine.stream([*self.messages(), question], self._turn_settings())
            try:
                for piece in stream:
                    self._show(piece)
            except KeyboardInterrupt:
                stopped = True
                stream.close()
        except UserError as error:
            self._say(str(error))
            return
        self._out.print()
        try:
            answer = stream.answer
        except RuntimeError:  # stopped before it had begun
            return
        if not answer.text.strip():
            self._say("the model ended its answer at once" if not stopped else "stopped")
            return
        if answer.finish_reason == "length" and self._interactive:
            self._say(f"stopped after {answer.num_new_tokens} tokens; --max_new_tokens allows more")
        if self._engine.keeps_history:
            self.history += [question, Message("assistant", answer.text)]

    def messages(self) -> list[Message]:
        """The conversation so far, the system prompt of /system first."""
        return [*([Message("system", self.system)] if self.system else []), *self.history]

    def _turn_settings(self) -> GenerationSettings:
        """The settings of this turn: a seed moves on with each turn, so that turns do not repeat one draw."""
        seed = self._settings.seed
        if seed is None:
            return self._settings
        values = {name: getattr(self._settings, name) for name in GenerationSettings.__dataclass_fields__}
        return GenerationSettings(**{**values, "seed": seed + len(self.history) // 2})

    def _save(self, name: str) -> None:
        if not name:
            self._say("/save needs a file name")
            return
        file = Path(name).expanduser()
        if file.exists() and file.resolve() not in self._saved:
            self._say(f"{file} exists already; choose another name")
            return
        try:
            save_conversation(file, self.messages())
        except UserError as error:
            self._say(str(error))
            return
        self._saved.add(file.resolve())
        self._say(f"saved to {file}")

    def _show(self, piece: str) -> None:
        shown = piece.translate(_CONTROLS) if self._out.is_terminal else piece
        self._out.print(Text(shown), end="", soft_wrap=True)
        self._out.file.flush()

    def _say(self, text: str) -> None:
        self._err.print(Text(text, style="dim"), soft_wrap=True)


def save_conversation(file: Path, messages: list[Message]) -> None:
    """Write ``[{"messages": [...]}]`` to ``file``, aside and renamed. Raises UserError when it cannot be written."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        write_json(file, [{"messages": turns}], sort_keys=False)
    except OSError as error:
        raise UserError(file, f"cannot be written ({error.strerror})", mend="choose another place") from error


def chat(engine: Talker, settings: GenerationSettings, *, end_on_empty_line: bool = False) -> int:
    """Chat over standard input and output; returns the exit status."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # absent on some systems
            import readline  # noqa: F401 - gives input() line editing
    return Chat(
        engine,
        settings,
        read=input if interactive else _read_piped,
        out=Console(highlight=False),
        err=Console(stderr=True, highlight=False),
        interactive=interactive,
        end_on_empty_line=end_on_empty_line,
    ).run()


def _read_piped(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
