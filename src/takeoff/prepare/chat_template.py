"""The chat template of a model file: hostile code, rendered in jinja2's sandbox.

The environment is the one that templates are written for (transformers, `chat_template_utils`).
The sandbox keeps a template from files and sockets; time and memory are bounded by the process
around it, which is killed when it is late.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from takeoff.request import lone_surrogate, strings_of

MAX_ADDED_CHARACTERS = 1_000_000  # of a rendered template, beyond the message itself
# Methods and filters that can take a part out of a text, which begins with their first argument.
_CUTTING = frozenset({"split", "rsplit", "partition", "rpartition", "replace", "find", "index", "rfind"})
_NO_VALUES: Mapping[str, Any] = MappingProxyType({})


class TemplateRefused(Exception):
    """The template called `raise_exception`: it doesn't take these messages."""


class TemplateBroken(Exception):
    """The template can't be compiled or rendered, or writes without end."""


class ChatTemplate:
    """One template, compiled at birth.

    `variables` are the names that it looks at, `cuts` the texts at which it may cut what it is given.

    Raises:
        TemplateBroken: not jinja2.
    """

    def __init__(self, source: str, *, bos_text: str, eos_text: str) -> None:
        self._values = {"bos_token": bos_text, "eos_token": eos_text}
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            parsed = environment.parse(source)
            self.variables = frozenset(meta.find_undeclared_variables(parsed))
            self.cuts = _cuts(parsed)
        except Exception as exc:  # jinja2 makes Python of it, which may be none: `break` outside of a loop
            raise TemplateBroken(f"the model's chat template is broken: {exc}") from exc

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        values: Mapping[str, Any] = _NO_VALUES,
    ) -> str:
        """A conversation as OpenAI's API has it; at its end the opening of the assistant's answer.

        `values`: variables that this model's template looks at, beside those that all have.

        Raises:
            TemplateRefused: the template says that it doesn't take these messages.
            TemplateBroken: any other end but a text of reasonable length.
        """
        given = [list(messages), list(tools or ()), dict(values)]
        limit = sum(map(len, strings_of(given))) + MAX_ADDED_CHARACTERS
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=tools,
                documents=None,
                **{**values, **self._values},
            ):
                length += len(part)
                if length > limit:
                    raise TemplateBroken(f"the model's chat template wrote more than {limit} characters")
                parts.append(part)
        except (TemplateBroken, TemplateRefused):
            raise
        except Exception as exc:  # a template is code of any kind, and so are its errors
            raise TemplateBroken(f"the model's chat template failed: {type(exc).__name__}: {exc}") from exc
        text = "".join(parts)
        if lone_surrogate(text) is not None:
            raise TemplateBroken("the model's chat template wrote half a character")
        return text


def _cuts(template: nodes.Template) -> frozenset[str]:
    """Arguments of its calls of `split` and the like; every text that it has if one of them is computed."""
    asked: list[nodes.Expr] = []
    for node in template.find_all((nodes.Call, nodes.Filter)):
        match node:
            case nodes.Call(node=nodes.Getattr(attr=name)) | nodes.Filter(name=name) if name in _CUTTING:
                asked += node.args[:1]
    texts = {each.value for each in asked if isinstance(each, nodes.Const)}
    if any(not isinstance(each, nodes.Const) for each in asked):
        texts = {each.value for each in template.find_all(nodes.Const)}
    return frozenset(each for each in texts if isinstance(each, str) and each.strip())


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, for training; to us it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 reads a class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefused(f"the model's chat template refuses the prompt: {message}")


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)
