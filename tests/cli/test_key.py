"""A key is made where one is asked for, and only there; what it says can be used."""

from __future__ import annotations

import re

import pytest

from takeoff.cli.key import with_key
from takeoff.settings import Settings


def test_a_key_is_made_anew_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    settings = with_key(Settings(make_key=True))
    told = re.search(r"^API key: (\S{32})$", capsys.readouterr().err, re.MULTILINE)
    assert told is not None
    assert settings.api_key == told[1]
    assert with_key(Settings(make_key=True)).api_key != told[1]


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(make_key=True, api_key="mine"), Settings(make_key=True, insecure=True)],
    ids=["not asked for", "one is given", "none is wanted"],
)
def test_no_key_is_made_where_none_is_due(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert with_key(settings) == settings
    assert capsys.readouterr().err == ""
