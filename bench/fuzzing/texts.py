"""Texts and pictures of strangers: manifests, chat templates and images, through the parts that read them."""

from __future__ import annotations

import base64
import contextlib
import io
import random
from pathlib import Path
from typing import Any

from bench.fuzzing.nasty import TEXTS, damaged, value
from bench.fuzzing.target import Found, Place
from PIL import Image

from takeoff.errors import InvalidRequest, SettingsError
from takeoff.prepare.chat_template import ChatTemplate, TemplateBroken, TemplateRefused
from takeoff.prepare.images import FORMATS, MAX_SIDE, decode_image
from takeoff.settings.fields import ReaderSettings, Settings
from takeoff.settings.loading import load_settings

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "tests/prepare/templates"

MANIFEST = """
takeoff:
  server_config: {max_batch_size: 8, port: 3100}
  readers_config:
    one: {model_name: smollm2, device: cpu, consumer_group: primary}
    two:
      model_name: "minilm"
      device: cpu
      consumer_group: embed
      loras: {a: /a.gguf}
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_PIECES = (
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "!<tag:x> 1",
        "%YAML 1.1\n---\n",
    ),
    *(
        "---\n",
        "...\n",
        "? ",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "|\n",
        ">+2\n",
        "'",
        '"',
        "#",
        "\t",
        "\n  ",
        "@",
        "`",
    ),
    *(
        "[" * 50,
        "[" * 5_000,
        "{a: " * 50,
        "- " * 3_000,
        "? " * 500,
        "1e400",
        ".inf",
        ".nan",
        "0o7",
        "0x1F",
        "1:30",
    ),
    *("2001-01-01", "9" * 5_000, '"\\ud800"', '"\\U00110000"', "\\x", "~", "null", "yes", BOMB),
)


class Manifests:
    """Settings out of a YAML file."""

    limit_s = 10.0
    may_be_late = False
    memory_bytes: int | None = 1 << 30
    watches_caller = True

    def __init__(self, place: Place) -> None:
        self._path = place.folder / "config.yaml"
        self._nowhere = place.folder / "none.yaml"
        self._server = sorted(Settings.model_fields.keys() - {"manifest", "readers", "without_effect"})
        self._reader = sorted(ReaderSettings.model_fields)

    def make(self, chance: random.Random) -> bytes:
        text = self._of_names(chance) if chance.random() < 0.5 else MANIFEST
        for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(YAML_PIECES) + text[place:]
        written = text.encode("utf-8", "surrogatepass")
        if chance.random() < 0.05:
            written = text.encode(chance.choice(("utf-16", "utf-32")), "surrogatepass")
        return damaged(written, chance) if chance.random() < 0.5 else written

    def run(self, case: bytes) -> bool:
        self._path.write_bytes(case)
        try:
            load_settings({"manifest": str(self._path)}, {}, container_manifest=self._nowhere)
        except SettingsError as exc:
            exc.told.encode("utf-8", "surrogateescape")
            return False
        return True

    def _of_names(self, chance: random.Random) -> str:
        """A manifest of names that there are, with values that may be theirs."""

        def entry(names: list[str], indent: str) -> str:
            return "".join(
                f"{indent}{chance.choice(names)}: {self._value(chance)}\n"
                for _ in range(chance.randint(0, 4))
            )

        readers = "".join(
            f"    {chance.choice(('one', 'two', '..', 'a/b', chance.choice(TEXTS[:8])))}:\n"
            f"      model_name: smollm2\n      device: cpu\n      consumer_group: primary\n"
            f"{entry(self._reader, '      ')}"
            for _ in range(chance.randint(0, 3))
        )
        server = entry(self._server, "    ")
        return f"takeoff:\n  server_config:\n{server}  readers_config:\n{readers}"

    def _value(self, chance: random.Random) -> str:
        if chance.random() < 0.6:
            words = (
                "1",
                "0",
                "8",
                "auto",
                "off",
                "on",
                "true",
                "false",
                "null",
                "cpu",
                "0.5",
                "[]",
                "{}",
                "a",
                "q8_0",
            )
            return chance.choice(words)
        return repr(value(chance)) if chance.random() < 0.5 else chance.choice(YAML_PIECES)


def manifest(place: Place) -> Manifests:
    return Manifests(place)


EXPRESSIONS = (
    *(
        "messages",
        "messages[0]",
        "messages[0].content",
        "message",
        "tools",
        "bos_token",
        "namespace(a=1)",
        "loop",
    ),
    *(
        "range(10**9)",
        "range(3)",
        "'x' * 10**9",
        "'a' * 10**12",
        "[0] * 10**8",
        "9**9**7",
        "1 / 0",
        "dict(a=1)",
    ),
    *(
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "lipsum(9)",
    ),
    *(
        "self.__init__.__globals__",
        "joiner.__init__",
        "request.application",
        "config",
        "raise_exception('no')",
    ),
    *(
        "strftime_now('%Y')",
        "strftime_now('%' * 9999)",
        "strftime_now('\\0')",
        "strftime_now(1)",
        "tools | tojson",
    ),
    *(
        "messages | tojson(indent=9)",
        "messages | tojson(indent=10**8)",
        "messages | map(attribute='__class__') | list",
    ),
    *(
        "messages | groupby('role')",
        "'%1000000000d' | format(1)",
        "'{:>1000000000}'.format(1)",
        "'{0.__class__}'.format(1)",
    ),
    *(
        "messages | sort(attribute='content')",
        "'abc' | center(10**9)",
        "'a' | indent(10**9)",
        "messages | batch(0) | list",
    ),
    *(
        "messages.append(1)",
        "messages.pop()",
        "'a'.encode().decode('idna')",
        "('a' * 999).split('')",
        "'a' | xmlattr",
    ),
    *(
        "messages[0].content.split('<|')[99]",
        "'\\ud800'",
        "raise_exception('\\ud800')",
        "messages | sum(attribute='a')",
    ),
)
STATEMENTS = (
    *(
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends '/etc/passwd' %}",
        "{% from 'a' import b %}",
    ),
    *(
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
    ),
    *(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}",
    ),
    *(
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% break %}",
        "{% continue %}",
        "{% generation %}",
    ),
    *(
        "{% raw %}",
        "{% endraw %}",
        "{#",
        "#}",
        "{%",
        "%}",
        "{{",
        "}}",
        "{%-",
        "-%}",
        "{% if %}",
        "{% endif %}",
        "{% endfor %}",
    ),
    *(
        "{% set x = " + "(" * 60 + "1" + ")" * 60 + " %}",
        "{{ " + "[" * 2_000 + "]" * 2_000 + " }}",
        "{{ " + "-" * 9_000 + "1 }}",
    ),
    *(
        "{{ 1 " + "+ 1 " * 3_000 + "}}",
        "{% if a %}" * 150,
        "{% filter upper %}",
        "{% do x %}",
        "{% trans %}",
        "{% debug %}",
    ),
    *(
        "{% call m() %}",
        "{% block a %}{% endblock %}",
        "{% autoescape true %}",
        "{% with a=1 %}",
        "{% set messages = 1 %}",
    ),
)


class Templates:
    """Chat templates of model files, and conversations for them."""

    limit_s = 1.0
    may_be_late = True  # a preparer that is late is killed, with its template
    memory_bytes: int | None = 1 << 30
    watches_caller = True

    def __init__(self) -> None:
        self._sources = [path.read_text("utf-8") for path in sorted(TEMPLATES.glob("*.jinja"))]
        self._sources.append("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")

    def make(self, chance: random.Random) -> bytes:
        text = chance.choice(self._sources)
        for _ in range(chance.choice((0, 1, 1, 1, 3))):
            place = chance.choice([at for at, char in enumerate(text) if char in "{}%\n "] or [0])
            piece = chance.choice(STATEMENTS)
            if chance.random() < 0.75:
                piece = (
                    "{{ "
                    + chance.choice(EXPRESSIONS)
                    + chance.choice(("", " | length", "[0]", ".a.b"))
                    + " }}"
                )
            text = text[:place] + piece + text[place:]
        written = text.encode("utf-8", "surrogatepass")
        return damaged(written, chance) if chance.random() < 0.3 else written

    def run(self, case: bytes) -> bool:
        try:
            template = ChatTemplate(case.decode("utf-8", "replace"), bos_text="<s>", eos_text="</s>")
            for messages, tools in CONVERSATIONS:
                template.render(messages, tools=tools).encode()
        except (TemplateBroken, TemplateRefused) as exc:
            str(exc)
            return False
        except MemoryError:  # the preparer says so of its prompt
            return False
        return True


CONVERSATIONS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([{"role": "user", "content": "Hello"}], None),
    (
        [
            {"role": "system", "content": "<|im_end|>é\0"},
            {"role": "user", "content": "a" * 99},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "f"}}],
            },
            {"role": "tool", "content": "{}"},
        ],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    ),
)


def template(_place: Place) -> Templates:
    return Templates()


class Images:
    """Pictures as clients send them."""

    limit_s = 10.0
    may_be_late = True  # as a template's preparer
    memory_bytes: int | None = 2 << 30
    watches_caller = True

    def __init__(self) -> None:
        self._files = list(_pictures())

    def make(self, chance: random.Random) -> bytes:
        return damaged(chance.choice(self._files), chance, 8)

    def run(self, case: bytes) -> bool:
        try:
            image = decode_image(case)
        except InvalidRequest as exc:
            exc.told.encode("utf-8", "surrogatepass")
            return False
        except MemoryError:
            return False
        if len(image.rgb) != 3 * image.width * image.height or max(image.width, image.height) > MAX_SIDE:
            raise Found("an image of another size", f"{image.width} x {image.height}")
        return True


def _pictures() -> list[bytes]:
    """A small one in each format, mode and way of being written."""
    files = []
    for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "LA"):
        picture = Image.effect_noise((16, 12), 50).convert("RGB").convert("L" if mode == "I;16" else mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        for name in FORMATS:
            for options in ({}, {"exif": exif}, {"progressive": True, "optimize": True}, {"lossless": True}):
                file = io.BytesIO()
                with contextlib.suppress(OSError, ValueError, KeyError):
                    picture.save(file, name, **options)
                    files.append(file.getvalue())
    frames = io.BytesIO()
    picture.convert("P").save(frames, "GIF", save_all=True, append_images=[picture.convert("P")])
    return [*files, frames.getvalue(), base64.b64decode("R0lGODlhAQABAAAAACw=")]


def image(_place: Place) -> Images:
    return Images()
