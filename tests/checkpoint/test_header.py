"""A header is accepted exactly when every rule of the format holds; each broken rule has its own error."""

import json
import os
import struct
import time

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico import raw_safetensors
from safetensors.torch import save_file

from expo import errors
from expo.checkpoint.header import read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changed):
    return {"w": {**F32, **changed}}


def refusal(path, error, *words, **options):
    with pytest.raises(error) as caught:
        read_header(path, path.name, **options)
    assert type(caught.value) is error
    text = str(caught.value)
    assert str(path) in text
    assert "\n" in text, "a remedy follows on its own line"
    for word in words:
        assert word in text


def test_what_safetensors_writes_is_read_back(tmp_path):
    tensors = {
        "b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 5),
        "ünïcode\n": torch.tensor([True, False]),
        "f8": torch.ones(3).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "ключ": "значение"})
    file, specs = read_header(path, "m.safetensors")
    assert file.metadata == {"format": "pt", "ключ": "значение"}
    assert file.n_bytes == path.stat().st_size and len(file.header_hash) == 32
    assert {spec.name: spec.shape for spec in specs} == {name: tuple(t.shape) for name, t in tensors.items()}
    assert [spec.offset for spec in specs] == sorted(spec.offset for spec in specs)
    raw = path.read_bytes()
    for spec in specs:
        held = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[spec.offset : spec.offset + spec.n_bytes]
        assert torch.equal(held, tensors[spec.name].reshape(-1).view(torch.uint8))


def test_a_file_without_tensors_but_with_metadata_is_legal(tmp_path):
    file, specs = read_header(raw_safetensors(tmp_path / "m", {"__metadata__": {"a": "b"}}), "m")
    assert specs == [] and file.metadata == {"a": "b"}


def test_spaces_may_pad_the_header(tmp_path):
    _, (spec,) = read_header(raw_safetensors(tmp_path / "m", json.dumps(entry()).encode() + b"     ", bytes(8)), "m")
    assert spec.offset == (tmp_path / "m").stat().st_size - 8


def test_the_header_hash_depends_on_the_header_alone(tmp_path):
    a, b = (raw_safetensors(tmp_path / name, entry(), data) for name, data in [("a", bytes(8)), ("b", b"12345678")])
    assert read_header(a, "a")[0].header_hash == read_header(b, "b")[0].header_hash


@pytest.mark.parametrize("content", [b"", b"\1\0\0"])
def test_a_file_shorter_than_its_length_field_is_truncated(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    refusal(path, errors.TruncatedHeader)


def test_a_length_beyond_the_file_is_truncated(tmp_path):
    refusal(raw_safetensors(tmp_path / "m", b"{}", length=2**63), errors.TruncatedHeader, str(2**63))


def test_a_large_header_needs_the_users_word(tmp_path):
    path = raw_safetensors(tmp_path / "m", json.dumps(entry()).encode() + b" " * 1000, bytes(8))
    refusal(path, errors.HeaderTooLarge, "--max-header", max_header=1000)
    assert read_header(path, "m", max_header=1100)


def test_no_word_lifts_the_formats_own_limit(tmp_path):
    path = raw_safetensors(tmp_path / "m", b"{", length=100_000_001)
    os.truncate(path, 200_000_000)  # sparse
    refusal(path, errors.HeaderTooLarge, "100000000", max_header=2**40)


def test_a_git_lfs_pointer_says_git_lfs_pull(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    refusal(path, errors.LfsPointer, "git lfs pull")


NOT_JSON = {
    "a space before the brace": b' {"a": 1}',
    "a list": b"[]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "invalid utf-8": b'{"\xff": {}}',
    "a surrogate in utf-8": b'{"\xed\xa0\x80": {}}',
    "a cut object": b'{"w": ',
    "a trailing comma": b'{"w": {},}',
    "a raw newline in a string": b'{"a\nb": {}}',
    "something after the object": b"{}x",
    "a newline after the object": b"{}\n",
    "a NUL after the object": b"{}\0",
    "a second object": b"{} {}",
    "deep lists": b'{"a":' + b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON)
def test_a_header_that_is_not_one_json_object_is_malformed(tmp_path, raw):
    refusal(raw_safetensors(tmp_path / "m", raw), errors.MalformedJson)


DUPLICATES = {
    "a tensor": b'{"w": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "w": {}}',
    "a field": b'{"w": {"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}',
    "a metadata key": b'{"__metadata__": {"a": "1", "\\u0061": "2"}}',
}


@pytest.mark.parametrize("raw", DUPLICATES.values(), ids=DUPLICATES)
def test_a_key_may_appear_once_at_every_level(tmp_path, raw):
    refusal(raw_safetensors(tmp_path / "m", raw, bytes(8)), errors.DuplicateKey)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1.0", "1e1", "-1", "-0", "1" * 5000, str(2**63)])
@pytest.mark.parametrize("where", ["shape", "data_offsets"])
def test_a_number_that_is_no_size_is_refused(tmp_path, number, where):
    raw = json.dumps(entry(**{where: ["@", 8]})).replace('"@"', number).encode()
    refusal(raw_safetensors(tmp_path / "m", raw, bytes(8)), errors.BadInteger)


@pytest.mark.parametrize("value", [True, False, None, "2", [2], {}])
def test_a_dimension_that_is_not_an_integer_is_refused(tmp_path, value):
    refusal(raw_safetensors(tmp_path / "m", entry(shape=[value, 1]), bytes(8)), errors.BadInteger, "'w'", "shape")
    refusal(raw_safetensors(tmp_path / "n", entry(data_offsets=[0, value]), bytes(8)), errors.BadInteger, "'w'")


@pytest.mark.parametrize("name", [r"\ud800", r"a\udfffb", r"\udc00\ud800"])
def test_half_a_surrogate_pair_is_no_name(tmp_path, name):
    raw = b'{"' + name.encode() + b'": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    refusal(raw_safetensors(tmp_path / "m", raw, bytes(8)), errors.BadName)


def test_a_name_with_a_nul_is_refused(tmp_path):
    refusal(raw_safetensors(tmp_path / "m", {"a\0b": F32}, bytes(8)), errors.BadName)


def test_an_unknown_dtype_is_named_with_the_nearest_known_one(tmp_path):
    refusal(raw_safetensors(tmp_path / "m", entry(dtype="BF17"), bytes(8)), errors.UnknownDType, "'w'", "'BF16'")


@pytest.mark.parametrize("dtype", ["f32", "", None, 5, ["F32"], {}])
def test_a_dtype_is_spelled_exactly(tmp_path, dtype):
    refusal(raw_safetensors(tmp_path / "m", entry(dtype=dtype), bytes(8)), errors.UnknownDType)


@pytest.mark.parametrize(
    "value", [{}, [], None, "F32", 3, {"dtype": "F32", "shape": [2]}, {**F32, "stride": [1]}], ids=repr
)
def test_an_entry_has_exactly_three_fields(tmp_path, value):
    refusal(raw_safetensors(tmp_path / "m", {"w": value}, bytes(8)), errors.BadEntry, "'w'")


@pytest.mark.parametrize("field", ["shape", "data_offsets"])
@pytest.mark.parametrize("value", [None, 2, "2", {}], ids=repr)
def test_shape_and_offsets_are_lists(tmp_path, field, value):
    refusal(raw_safetensors(tmp_path / "m", entry(**{field: value}), bytes(8)), errors.BadEntry, field)


@pytest.mark.parametrize("value", [None, [], "a", {"a": 1}, {"a": None}, {"a": {}}], ids=repr)
def test_metadata_is_an_object_of_strings(tmp_path, value):
    refusal(raw_safetensors(tmp_path / "m", {"__metadata__": value}), errors.BadMetadata, "__metadata__")


@pytest.mark.parametrize("shape", [[], [1], [3], [2, 2], [0], [2**62, 2**62, 0], [2**62] * 50])
def test_shape_and_type_give_the_number_of_bytes(tmp_path, shape):
    refusal(raw_safetensors(tmp_path / "m", entry(shape=shape), bytes(8)), errors.SizeMismatch, "'w'")


def test_elements_narrower_than_a_byte_fill_whole_bytes(tmp_path):
    ragged = entry(dtype="F4", shape=[3], data_offsets=[0, 1])
    refusal(raw_safetensors(tmp_path / "m", ragged, bytes(1)), errors.RaggedTensor, "12 bits")
    whole = entry(dtype="F6_E2M3", shape=[4], data_offsets=[0, 3])
    _, (spec,) = read_header(raw_safetensors(tmp_path / "n", whole, bytes(3)), "n")
    assert spec.n_bytes == 3


@pytest.mark.parametrize("offsets", [[], [0], [0, 8, 8], [8, 0]], ids=repr)
def test_offsets_are_a_start_and_an_end(tmp_path, offsets):
    refusal(raw_safetensors(tmp_path / "m", entry(data_offsets=offsets), bytes(8)), errors.OffsetMismatch, "'w'")


PLACES = {"overlap": (4, 12, "overlaps"), "gap": (9, 17, "leaves 1 bytes"), "same": (0, 8, "overlaps")}


@pytest.mark.parametrize("begin, end, word", PLACES.values(), ids=PLACES)
def test_tensors_lie_back_to_back(tmp_path, begin, end, word):
    header = {"a": F32, "b": {**F32, "data_offsets": [begin, end]}}
    refusal(raw_safetensors(tmp_path / "m", header, bytes(end)), errors.OffsetMismatch, "'a'", "'b'", word)


def test_the_first_tensor_follows_the_header(tmp_path):
    header = entry(data_offsets=[8, 16])
    refusal(raw_safetensors(tmp_path / "m", header, bytes(16)), errors.OffsetMismatch, "after the header")


def test_a_file_that_ends_early_is_truncated(tmp_path):
    refusal(raw_safetensors(tmp_path / "m", entry(), bytes(7)), errors.TruncatedFile, "1 missing", "'w'")


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    refusal(raw_safetensors(tmp_path / "m", entry(), bytes(9)), errors.TrailingBytes, "1 bytes follow 'w'")


def test_a_pipe_a_folder_and_nothing_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ["pipe", "", "absent", "\0"]:
        with pytest.raises(errors.UnreadableFile):
            read_header(tmp_path / name, name)


BOMBS = {
    "lists": b'{"a":[' + b"[]," * (4 * 2**18) + b"[]]}",
    "objects": b"{" + b",".join(b'"%d":{}' % n for n in range(10**5 * 3)) + b"}",
    "open brackets": b"{" + b"[" * (4 * 2**20 - 1),
    "digits": b'{"a":' + b"9" * (4 * 2**20 - 6) + b"}",
    "dimensions": b'{"a":{"dtype":"F32","data_offsets":[0,4],"shape":[' + b"1," * (2 * 2**20 - 100) + b"7]}}",
    "sides": b'{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[' + b"%d," % 2**62 * 200_000 + b"7]}}",
    "escapes": b'{"' + b"\\u0041" * (2**19) + b'":{}}',
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_a_hostile_header_is_refused_in_seconds_and_in_a_short_message(tmp_path, raw):
    assert len(raw) <= 5 * 2**20
    path = raw_safetensors(tmp_path / "m", raw)
    started = time.process_time()
    with pytest.raises(errors.HeaderError) as caught:
        read_header(path, "m")
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 1000


# --- against the authority -------------------------------------------------------------------------------------------

SMALL = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    "e": {"dtype": "F16", "shape": [0, 4], "data_offsets": [22, 22]},
    "s": {"dtype": "U8", "shape": [], "data_offsets": [22, 23]},
}
TOKENS = [
    b'"a"',
    b'"b"',
    b"0",
    b"1",
    b"16",
    b"22",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"1.5",
    b"-1",
    b"NaN",
    b"F4",
    b"F64",
]
TOKENS += [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\ud800",
    b"\0",
    b" ",
    b"\n",
    b"\xff",
    b"99999999999999999999",
]
SCALARS = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 16, 22, 23, 2**31, 2**63, 2**64, -1, 1.0, True, None, "F32", "F4", "BOOL", ""]
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)


@st.composite
def cut_and_pasted(draw):
    """The small header with a few bytes or tokens replaced."""
    raw = json.dumps(SMALL).encode()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        width = draw(st.integers(0, 4))
        raw = raw[:at] + draw(st.sampled_from(TOKENS) | st.binary(max_size=2)) + raw[at + width :]
    return raw


@st.composite
def rewritten(draw):
    """The small header with a few values or names replaced: well-formed JSON, wrong in meaning."""
    header = json.loads(json.dumps(SMALL))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(["a", "b", "e", "s"]))
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
        if isinstance(header.get(name), dict):
            header[name][field] = draw(VALUES)
        if draw(st.booleans()):
            header[draw(st.text(max_size=3))] = header.pop(name, {})
    return json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def legal(draw):
    """Any header that keeps the rules: types, shapes and order drawn."""
    names = draw(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), unique=True))
    widths = {"F64": 8, "F32": 4, "BF16": 2, "F8_E5M2": 1, "BOOL": 1, "C64": 8, "F8_E8M0": 1}
    header, at = {}, 0
    for name in names:
        if name == "__metadata__":
            continue
        dtype, shape = draw(st.sampled_from(sorted(widths))), draw(st.lists(st.integers(0, 3), max_size=3))
        n_bytes = widths[dtype]
        for side in shape:
            n_bytes *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    keys = draw(st.permutations(sorted(header)))
    return json.dumps({key: header[key] for key in keys}).encode(), at


def agree(path, raw, n_data):
    """Read with both; True where expo accepts, which safetensors then must, and identically."""
    data = bytes(n % 251 for n in range(n_data))
    whole = struct.pack("<Q", len(raw)) + raw + data
    path.write_bytes(whole)
    try:
        _, specs = read_header(path, "m")
    except errors.HeaderError:
        return False
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(whole)}
    ours = {s.name: (s.dtype.name, s.shape, whole[s.offset : s.offset + s.n_bytes]) for s in specs}
    assert ours == theirs
    return True


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("headers") / "m.safetensors"


UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=1200, **UNHURRIED)
@given(raw=cut_and_pasted(), n_data=st.sampled_from([23, 23, 23, 22, 24]))
def test_damaged_bytes_raise_a_header_error_or_mean_what_safetensors_reads(scratch, raw, n_data):
    agree(scratch, raw, n_data)


@settings(max_examples=1200, **UNHURRIED)
@given(raw=rewritten(), n_data=st.sampled_from([23, 23, 23, 22, 24]))
def test_wrong_values_raise_a_header_error_or_mean_what_safetensors_reads(scratch, raw, n_data):
    agree(scratch, raw, n_data)


@settings(max_examples=300, **UNHURRIED)
@given(raw=st.binary(max_size=64), length=st.integers(0, 70))
def test_any_bytes_raise_a_header_error_or_are_a_file(scratch, raw, length):
    scratch.write_bytes(struct.pack("<Q", length) + raw)
    try:
        read_header(scratch, "m")
    except errors.HeaderError:
        return


@settings(max_examples=250, **UNHURRIED)
@given(drawn=legal())
def test_every_legal_header_is_accepted(scratch, drawn):
    assert agree(scratch, *drawn)
