"""Templates: how a conversation is written for the model, and which part of it the model learns to write."""

from hanlin.template.catalog import TEMPLATES, Template, add_template
from hanlin.template.form import ToolForm
from hanlin.template.parts import SpecialTokens
from hanlin.template.render import Renderer, TemplateRenderer
from hanlin.template.resolve import CHAT_TEMPLATE, resolve_renderer, template_names

__all__ = [
    "CHAT_TEMPLATE",
    "TEMPLATES",
    "Renderer",
    "SpecialTokens",
    "Template",
    "TemplateRenderer",
    "ToolForm",
    "add_template",
    "resolve_renderer",
    "template_names",
]
