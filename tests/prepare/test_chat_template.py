from __future__ import annotations

import pytest

from takeoff.prepare.chat_template import (
    MAX_ADDED_CHARACTERS,
    ChatTemplate,
    TemplateBroken,
    TemplateRefused,
)


def render(source: str, content: str = "hello") -> str:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>").render(
        [{"role": "user", "content": content}]
    )


def test_templates_see_what_transformers_gives_them() -> None:
    assert render("{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}{{ eos_token }}") == (
        "<s>user:hello</s>"
    )
    assert render("{% if add_generation_prompt %}go{% endif %}") == "go"
    assert render('{{ {"b": "é<", "a": 1} | tojson }}') == '{"b": "é<", "a": 1}'
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}said{% endgeneration %}") == "said"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10


def test_blocks_leave_no_blank_lines() -> None:
    assert render("  {% if true %}\na\n  {% endif %}\nb") == "a\nb"


def test_a_template_that_refuses_the_message_says_why() -> None:
    with pytest.raises(TemplateRefused, match="refuses the prompt: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{% break %}",
        "{{ '\\ud800' }}",
        "{% if a %}" * 150 + "{% endif %}" * 150,
        "{{ 1 ** " + "9" * 5_000 + " }}",
        "{{ " + "(" * 5_000 + ")" * 5_000 + " }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.nothing.at_all }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(1000000000) %}x{% endfor %}",
    ],
)
def test_hostile_or_broken_templates_end_in_one_error(source: str) -> None:
    with pytest.raises(TemplateBroken, match="the model's chat template"):
        render(source)


def test_a_template_cannot_write_without_end() -> None:
    given = len("role" + "user" + "content" + "hello")
    with pytest.raises(TemplateBroken, match=f"more than {MAX_ADDED_CHARACTERS + given} characters"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}")
