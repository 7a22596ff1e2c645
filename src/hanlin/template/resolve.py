"""Which renderer a run uses: the named template, or else the tokenizer's own."""

from __future__ import annotations

from datetime import datetime

from hanlin.errors import UserError
from hanlin.template.catalog import OTHER_NAMES, TEMPLATES, find_template
from hanlin.template.jinja import JinjaRenderer
from hanlin.template.parts import SpecialTokens
from hanlin.template.render import Renderer, TemplateRenderer

CHAT_TEMPLATE = JinjaRenderer.name
"""Name that asks for the tokenizer's own template, as records of trained models do."""


def template_names() -> tuple[str, ...]:
    """What ``--template`` may say."""
    return (*sorted((*TEMPLATES, *OTHER_NAMES)), CHAT_TEMPLATE)


def resolve_renderer(
    name: str | None,
    *,
    chat_template: str | None,
    special: SpecialTokens,
    system: str | None = None,
    place: str = "--template",
    now: datetime | None = None,
) -> Renderer:
    """The renderer of the template ``name``; without a name, that of ``chat_template`` (Jinja source).

    ``system`` is the system text of conversations that bring none; None keeps the template's default and the empty
    string asks for no system text. ``now`` is what a template that writes the date sees. Raises UserError at ``place``
    for an unknown name, when there is neither a name nor a chat template, and when the template cannot stop an answer.
    """
    if name is not None and name != CHAT_TEMPLATE:
        return TemplateRenderer(find_template(name, place), special, system=system, place=place)
    if chat_template is None:
        raise UserError(
            place,
            "the tokenizer has no chat template of its own" + ("" if name else " and no template is named"),
            expected=f"one of {', '.join(sorted(TEMPLATES))}",
            mend=f"name a template with {place}" if place.startswith("--") else "name a template with --template",
        )
    return JinjaRenderer(chat_template, special, system=system, place=place, now=now)
