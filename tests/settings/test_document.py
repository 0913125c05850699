"""YAML as nodes with places: what is read, and what of YAML is refused."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from takeoff.errors import SettingsError
from takeoff.settings.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, parse_document, read_document


def parse(text: str) -> Node:
    node = parse_document(text, "config.yaml")
    assert node is not None
    return node


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_document(text, "config.yaml")
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("off", "off"),
        ("3000", 3000),
        ("-1", -1),
        ("+5", 5),
        ("010", 10.0),  # a float's digits may begin with 0; as a whole number it is refused
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-25", "2026-11-25"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("'3000'", "3000"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("|\n   a\n   b\n", "a\nb\n"),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"key: {text}").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_node_knows_its_line_column_and_text() -> None:
    node = parse("a:\n  b:   0007\n")
    assert node.children is not None
    inner = node.children["a"].children
    assert inner is not None
    assert (inner["b"].line, inner["b"].column, inner["b"].text) == (2, 8, "0007")


def test_nothing_is_none() -> None:
    assert parse_document("# only this\n", "config.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "the key 'a' a second time (config.yaml, line 2, column 1)"),
        ("a: 1\n'a': 2\n", "the key 'a' a second time (config.yaml, line 2, column 1)"),
        (
            "a: !!int 5",
            "a tag (tag:yaml.org,2002:int), which no setting needs (config.yaml, line 1, column 4)",
        ),
        (
            "a: !!python/object:os.system x",
            "a tag (tag:yaml.org,2002:python/object:os.system), which no setting",
        ),
        ("a: ! x", "a tag (!), which no setting needs (config.yaml, line 1, column 4)"),
        ("<<: {a: 1}", "a merge key (<<); write the keys out"),
        ("[1]: 2", "a key that is not a single word (config.yaml, line 1, column 1)"),
        ("a: *b", "no anchor is called 'b' before this alias (config.yaml, line 1, column 4)"),
        ("a: &a [*a]", "no anchor is called 'a' before this alias (config.yaml, line 1, column 8)"),
        ("a: 1\n---\nb: 2\n", "a second document (config.yaml, line 3, column 1)"),
        ("a: [1", "not YAML: expected ',' or ']', but got '<stream end>' (config.yaml, line 1, column 6)"),
        ("a:\n\t- b", "not YAML: found character '\\t' that cannot start any token (config.yaml, line 2"),
        ("a: \x00", "not YAML: unacceptable character #x0000"),
        ('a: "\\U00110000"', "not YAML: chr() arg not in range(0x110000) (config.yaml)"),
        ('a: "\\UFFFFFFFF"', "not YAML: "),
    ],
)
def test_what_a_manifest_does_not_need_is_refused_with_its_place(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


def test_an_alias_stands_for_its_anchor() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n").value == {"a": {"b": 1}, "c": {"b": 1}}


def test_aliases_are_counted_in_full() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]  # 10**10 nodes
    assert refusal("\n".join(lines)).startswith(f"more than {MAX_NODES} nodes, aliases counted in full")


def test_depth_is_bounded() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH).value is not None
    assert refusal("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)).startswith(f"more than {MAX_DEPTH} levels")
    assert refusal("[" * 5_000).startswith(f"more than {MAX_DEPTH} levels")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(SettingsError, match=f"there is no file {path}"):
        read_document(path)
    with pytest.raises(SettingsError, match=r"can't read .*: Is a directory"):
        read_document(tmp_path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(SettingsError, match="is not UTF-8 at byte 3"):
        read_document(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SettingsError, match=f"has more than {MAX_BYTES} bytes"):
        read_document(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1" + b" " * (MAX_BYTES - 7))
    document = read_document(path)
    assert document is not None
    assert document.value == {"a": 1}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#,?% \n\t01.~<")))
@example("? : -")
@example("%YAML 9.9\n--- a")
def test_any_text_is_a_tree_or_a_settings_error(text: str) -> None:
    try:
        parse_document(text, "config.yaml")
    except SettingsError as exc:
        error = exc.message
    else:
        return
    assert "config.yaml" in error
