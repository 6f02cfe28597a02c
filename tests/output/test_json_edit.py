"""A changed value changes its own bytes and no others."""

import json

import pytest

from expo.output.json_edit import values, with_values, without

TEXT = '{\r\n\t"a" : 1,\n "b":{"c": [1, {"a": 2}], "d": {"a": "x, \\"}"}} ,"e":null, "é": "ü"}\n'


def test_every_member_of_nested_objects_is_found():
    found = values(TEXT)
    assert found[("a",)] == 1 and found[("b", "c")] == [1, {"a": 2}] and found[("b", "d", "a")] == 'x, "}'
    assert set(found) == {("a",), ("b",), ("b", "c"), ("b", "d"), ("b", "d", "a"), ("e",), ("é",)}


def test_a_replaced_value_leaves_every_other_byte():
    assert with_values(TEXT, {("a",): 25, ("b", "d", "a"): [3]}) == TEXT.replace('"a" : 1', '"a" : 25').replace(
        '"x, \\"}"', "[3]"
    )


@pytest.mark.parametrize("text", ["{}", " { } ", '{"x": {}}', '{"x": {"y": 1}, "z": 2}'])
def test_a_new_member_is_put_first(text):
    assert json.loads(with_values(text, {("n",): 1})) == {"n": 1, **json.loads(text)}


def test_a_new_member_may_stand_in_an_inner_object():
    assert json.loads(with_values('{"x": {"y": 1}}', {("x", "n"): 2, ("x", "y"): 3})) == {"x": {"n": 2, "y": 3}}
    with pytest.raises(KeyError):
        with_values("{}", {("x", "n"): 1})


@pytest.mark.parametrize("key", ["first", "mid", "last"])
def test_a_member_is_taken_out_with_its_comma(key):
    text = '{\n  "first": {"a": 1},\n  "mid": "}",\n  "last": [1]\n}\n'
    expected = json.loads(text)
    del expected[key]
    cut = without(text, (key,))
    assert json.loads(cut) == expected
    assert cut.startswith("{\n  ") and cut.endswith("\n}\n")


def test_what_is_not_there_is_not_taken_out():
    assert without(TEXT, ("z",)) == TEXT
    assert without('{"a": 1}', ("a",)) == "{}"
