"""What an entry point of 2023 did beyond today's verbs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hanlin.commands.tokenizer import extend, report
from hanlin.config.older import MergeTokenizers
from hanlin.config.tokenizer import TokenizerExtend, TokenizerReport
from hanlin.errors import UserError
from hanlin.vocab.tokenizer import MODEL_FILE

HF_FOLDER = "merged_tokenizer_hf"
SP_FILE = Path("merged_tokenizer_sp", "chinese_llama.model")
"""The published names, in the working directory."""

SELF_TEST = (
    "空山新雨后，天气晚来秋。明月松间照，清泉石上流。\nA language model reads tokens, and a token is a piece of text."
)
"""Two lines that are shown as pieces with both tokenizers: a Tang poem and an English sentence."""


def merge_tokenizers(config: MergeTokenizers) -> int:
    """Extend, write both forms under their published names, and show the same text before and after."""
    extend(
        TokenizerExtend(
            tokenizer=config.llama_tokenizer_dir,
            pieces_from=config.chinese_sp_model_file,
            output_dir=HF_FOLDER,
            overwrite=True,
        )
    )
    _copy(Path(HF_FOLDER, MODEL_FILE), SP_FILE)
    return report(TokenizerReport(tokenizer=HF_FOLDER, before=config.llama_tokenizer_dir, text=SELF_TEST))


def _copy(source: Path, target: Path) -> None:
    """Copy aside and rename, so that an older file stays whole until the new one is."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, aside)
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(target, f"cannot be written: {error.strerror or error}") from error
    print(f"written to {target}")
