"""YAML text: every node knows its place, and what recipes never need is refused before anything is built."""

import time

import pytest

from expo.errors import RecipeError
from expo.recipe.yaml_text import MAX_BYTES, Disputed, plain_value, read_documents


def refusal(content) -> str:
    with pytest.raises(RecipeError) as caught:
        read_documents(content, "r.yaml")
    return str(caught.value)


def test_nodes_and_keys_know_line_and_column():
    (node,) = read_documents("a: 1\nb:\n  - x\n  - {c: 2}\n", "r.yaml")
    assert str(node.keys["b"]) == "r.yaml:2:1"
    assert str(node.content["b"].content[1].content["c"].place) == "r.yaml:4:9"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\n", ["r.yaml:1:4", "anchor"]),
        ("a: *x\n", ["r.yaml:1:4", "alias"]),
        ("a: !!python/name:os.system\n", ["r.yaml:1:4", "tag"]),
        ("a: !!str 1\n", ["tag"]),
        ("a: 1\nb: 2\na: 3\n", ["r.yaml:3:1", "given twice", "r.yaml:1:1"]),
        ("1: x\n", ["r.yaml:1:1", "keys are texts"]),
        ("true: x\n", ["keys are texts"]),
        ("yes: x\n", ["keys are texts"]),
        ("? [a]\n: x\n", ["keys are texts"]),
        ("<<: {a: 1}\n", ["merges mappings"]),
        ("a: b\n  c\n", ["r.yaml:1:4", "several lines"]),
        ("a:\n\tb: 1\n", ["r.yaml:2:1", "tab"]),
        ("a: 'x\n", ["r.yaml:2:1", "not YAML"]),
        ("a: [1, 2\nb: 3\n", ["r.yaml:2:", "not YAML"]),
        ("a: x: y\n", ["r.yaml:1:5", "not YAML"]),
        ("a: \x07\n", ["r.yaml:1:4", "U+0007"]),
        ("a: \ud800\n", ["r.yaml:1:4", "surrogate"]),
        (b"a: \xff\n", ["r.yaml:1:4", "UTF-8"]),
        ("a: 1\n".encode("utf-16"), ["r.yaml:1:1", "UTF-8"]),
        ("%YAML 3.0\n---\na: 1\n", ["r.yaml:1:1", "not YAML"]),
        ("[" * 100, ["nested deeper"]),
        ("- 1\n" * 60_000, ["more than 50000 values"]),
    ],
)
def test_what_recipes_do_not_need_is_refused_with_its_place(text, words):
    said = refusal(text)
    assert all(word in said for word in words), said


def test_all_problems_come_at_once_in_the_order_of_the_file():
    said = refusal("a: &x 1\nb: !t 2\nb: 3\n").splitlines()
    assert said[0].startswith("3 problems")
    assert [line.split(":")[1] for line in said[1:]] == ["1", "2", "3"]


def test_a_large_file_is_refused_unread():
    assert f"at most {MAX_BYTES}" in refusal("#" * (MAX_BYTES + 1))


@pytest.mark.parametrize("text", ["a: 1\nb: 2\n", "\ufeffa: 1\nb: 2\n", "a: 1\r\nb: 2\r\n", "a: 1\rb: 2\r"])
def test_byte_order_marks_and_line_ends_change_nothing(text):
    (node,) = read_documents(text.encode(), "r.yaml")
    assert {key: child.content for key, child in node.content.items()} == {"a": "1", "b": "2"}
    assert node.content["b"].place.line == 2


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n", "~\n"])
def test_documents_of_nothing_are_left_out(text):
    assert read_documents(text, "r.yaml") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("1", 1),
        ("-7", -7),
        ("0x1F", 31),
        ("1e-3", 0.001),  # a text to YAML 1.1
        (".5", 0.5),
        ("2024-01-01", "2024-01-01"),  # a date to YAML 1.1
        ("org/name@main", "org/name@main"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    assert plain_value(text) == value and type(plain_value(text)) is type(value)


@pytest.mark.parametrize("text", ["on", "off", "yes", "No", "y", "010", "0o17", "1:30", "190:20:30", "1_000"])
def test_what_versions_of_yaml_dispute_is_marked(text):
    assert isinstance(plain_value(text), Disputed)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        "{a: " * 250_000,
        "? " * 500_000,
        "a: '" + "x" * 10**6,
        "&a " * 300_000,
        "a\n" * 500_000,
        "a: " + "9" * 10**6,
        "".join(f"k{i % 9}: 1\n" for i in range(25_000)),
    ],
)
def test_hostile_text_is_settled_in_bounded_time(text):
    began = time.process_time()
    try:
        read_documents(text, "r.yaml")
    except RecipeError as error:
        assert len(str(error)) < 40_000
    assert time.process_time() - began < 2
