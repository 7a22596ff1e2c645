"""What can be said of the named model before the libraries that train and answer are imported, which takes seconds."""

from __future__ import annotations

from typing import Any

from hanlin.config.fields import flatten
from hanlin.config.hub import HubConfig
from hanlin.model.choose import choose_model


def check_model_type(config: Any) -> None:
    """Raises UserError for a ``--model_type`` that is unknown or refused; the verb itself chooses the model again.

    Own entries are left to the verb: a Python file among them is to run once.
    """
    values = flatten(config)
    if values.get("model_type") is None or values.get("register"):
        return
    hub = HubConfig(use_hf=values.get("use_hf"), offline=bool(values.get("offline")))
    from_scratch = "model_config" in values
    choose_model(values.get("model"), values["model_type"], hub, may_start_from_scratch=from_scratch)
