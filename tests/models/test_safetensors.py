"""Safetensors files: what the package writes is read, what is damaged is refused, what we write is right."""

import base64
import gc
import json
import os
import random
import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.models.hub import lazy, safetensors
from jaxpref.models.hub.safetensors import open_file, read_header, write_file

# safetensors.torch.save of the package safetensors 0.8.0, with torch 2.15: the tensors of `WRITTEN`.
PACKAGE = base64.b64decode(
    "qAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJpIjp7ImR0eXBlIjoiSTY0Iiwic2hhcGUiOlsyXSwiZGF0YV9v"
    "ZmZzZXRzIjpbMCwxNl19LCJzIjp7ImR0eXBlIjoiRjY0Iiwic2hhcGUiOltdLCJkYXRhX29mZnNldHMiOlsxNiwyNF19LCJlIjp7ImR0"
    "eXBlIjoiRjMyIiwic2hhcGUiOlswLDJdLCJkYXRhX29mZnNldHMiOlsyNCwyNF19LCJ3Ijp7ImR0eXBlIjoiQkYxNiIsInNoYXBlIjpb"
    "Myw0XSwiZGF0YV9vZmZzZXRzIjpbMjQsNDhdfSwiaCI6eyJkdHlwZSI6IkYxNiIsInNoYXBlIjpbMSwyXSwiZGF0YV9vZmZzZXRzIjpb"
    "NDgsNTJdfSwidSI6eyJkdHlwZSI6IlU4Iiwic2hhcGUiOlsxXSwiZGF0YV9vZmZzZXRzIjpbNTIsNTNdfSwiYiI6eyJkdHlwZSI6IkJP"
    "T0wiLCJzaGFwZSI6WzNdLCJkYXRhX29mZnNldHMiOls1Myw1Nl19fSAg//////////8AAAAAAAEAAAAAAAAAAATAAADAP0BAkEDAQPBA"
    "EEEoQUBBWEFwQYRBAD4AwP8BAAE="
)
WRITTEN = {
    "w": (np.arange(12, dtype=np.float32).reshape(3, 4) * 1.5).astype(jnp.bfloat16),
    "b": np.array([True, False, True]),
    "s": np.array(-2.5),
    "h": np.array([[1.5, -2.0]], np.float16),
    "i": np.array([-1, 2**40]),
    "u": np.array([255], np.uint8),
    "e": np.zeros((0, 2), np.float32),
}


def assert_same(read, given):
    assert read.dtype == given.dtype
    assert read.shape == given.shape
    assert np.asarray(read).tobytes() == np.ascontiguousarray(given).tobytes()


def a_file(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


def entry(dtype="F32", shape=(1,), start=0, stop=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_reads_what_the_package_writes(tmp_path):
    (tmp_path / "x").write_bytes(PACKAGE)
    tensors = open_file(tmp_path / "x")
    assert tensors.keys() == WRITTEN.keys()
    for name, array in WRITTEN.items():
        assert_same(tensors[name], array)
    assert read_header(tmp_path / "x").metadata == {"format": "pt"}


def test_writes_the_packages_bytes(tmp_path):
    """In the order of names that the package has; the header is theirs to the byte."""
    write_file(tmp_path / "x", {name: WRITTEN[name] for name in "isewhub"})
    ours, theirs = (tmp_path / "x").read_bytes(), PACKAGE
    assert json.loads(ours[8:432]) | {"e": None} == json.loads(theirs[8:432]) | {"e": None}
    assert ours[432:] == theirs[432:]


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.uint16, np.int32, np.float16, jnp.bfloat16, np.float64]
)
def test_arrays_of_any_strides_come_back(tmp_path, dtype, monkeypatch):
    given = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(dtype)
    tensors = {
        "transposed": given[0].T,
        "all axes": given.transpose(2, 0, 1),
        "strided": given[::2, 1::3],
        "backwards": given[::-1, :, ::-1],
        "repeated": np.broadcast_to(given[0, 0], (3, 4)),
        "of jax": jnp.asarray(given[1].astype(np.float32)),
        "lazy": lazy.wrapped(given[0]).T,
        "lazy stack": lazy.stacked([lazy.wrapped(x).T.rows([3, 0, 2]) for x in given]),
    }
    monkeypatch.setattr(lazy, "BLOCK", 8)
    monkeypatch.setattr(lazy, "_ROWS", 24)
    write_file(tmp_path / "x", tensors, {"step": "3"})
    read = open_file(tmp_path / "x")
    for name, array in tensors.items():
        assert_same(read[name], np.asarray(array))
    assert read_header(tmp_path / "x").metadata == {"format": "pt", "step": "3"}
    for name, place in read_header(tmp_path / "x").tensors.items():
        assert place.start % place.dtype.itemsize == 0, name


def test_a_slice_reads_its_bytes_alone(tmp_path, monkeypatch):
    given = np.arange(60 * 40, dtype=np.float32).reshape(60, 40)
    write_file(tmp_path / "x", {"first": np.zeros(9), "x": given})
    x = open_file(tmp_path / "x")["x"]
    start = read_header(tmp_path / "x").tensors["x"].start
    touched = []
    preadv = os.preadv

    def noted(descriptor, buffers, offset):
        touched.append((offset - start, sum(b.nbytes for b in buffers)))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    np.testing.assert_array_equal(x[10:20], given[10:20])
    assert touched == [(10 * 160, 10 * 160)]
    touched.clear()
    mapped = safetensors._File.mapped
    monkeypatch.setattr(
        safetensors._File, "mapped", lambda f, at, n: touched.append((at - start, n)) or mapped(f, at, n)
    )
    np.testing.assert_array_equal(x[3:50, 8:16], given[3:50, 8:16])
    assert touched == [(3 * 160 + 32, 46 * 160 + 32)]
    touched.clear()
    monkeypatch.setattr(lazy, "BLOCK", 200)  # a map covers 8 of them, 10 rows
    np.testing.assert_array_equal(x.T[8:10, 3:50], given.T[8:10, 3:50])
    assert len(touched) == 5
    assert all(n <= 8 * 200 for _, n in touched)


DAMAGED = {
    "empty": (b"", "0 bytes"),
    "a pickle": (b"\x80\x04\x95" + b"x" * 40, "truncated, or of another format"),
    "longer than the file": (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes in a file of 10"),
    "absurdly long": (struct.pack("<Q", 2**64 - 1) + b"{}", "a header of 18446744073709551615 bytes"),
    "no text": (struct.pack("<Q", 2) + b"\xff{", "damaged"),
    "no JSON": (struct.pack("<Q", 2) + b"{]", "damaged"),
    "deep": (struct.pack("<Q", 10**5) + b"[" * 10**5, "damaged"),
    "a list": (struct.pack("<Q", 2) + b"[]", "expected an object"),
    "a space in front": (struct.pack("<Q", 3) + b" {}", "does not begin with a brace"),
    "half a character": (struct.pack("<Q", 14) + b'{"\\ud800":{}} \n', "damaged"),
    "no header": (struct.pack("<Q", 0), "damaged"),
}
HEADERS = {
    "twice": (b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2), "'a' is there twice"),
    "twice inside": (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "'dtype' is there twice"),
    "8-bit floats": ({"a": entry("F8_E4M3", (4,))}, "dtype 'F8_E4M3' is not read"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, "expected the entries"),
    "more entries": ({"a": entry() | {"strides": [1]}}, "expected the entries"),
    "no entry": ({"a": 3}, "expected the entries"),
    "negative size": ({"a": entry(shape=(-1,))}, "its shape"),
    "size that is true": ({"a": entry(shape=(True,))}, "its shape"),
    "size that is a fraction": ({"a": entry(shape=(1.0,))}, "its shape"),
    "too many axes": ({"a": entry(shape=(1,) * 40)}, "its shape"),
    "enormous": ({"a": entry(shape=(0, 2**62, 2**62), stop=0)}, "data_offsets"),
    "negative place": ({"a": entry(start=-4, stop=0)}, "no two places"),
    "one place": ({"a": entry() | {"data_offsets": [0]}}, "no two places"),
    "backwards": ({"a": entry(start=4, stop=0)}, "has 4 bytes"),
    "wrong shape": ({"a": entry(shape=(2,))}, "has 8 bytes"),
    "too long": ({"a": entry(shape=(2,), stop=8)}, "truncated"),
    "outside": ({"a": entry(start=2**40, stop=2**40 + 4)}, "a gap after the header"),
    "overlap": ({"a": entry(), "b": entry(shape=(2,), stop=8)}, "'b' overlaps 'a'"),
    "gap": ({"a": entry("I8", (1,), 0, 1), "b": entry("I8", (2,), 2, 4)}, "'b' leaves a gap after 'a'"),
    "too short": ({"a": entry("I8", (1,), 0, 1)}, "bytes of no tensor"),
    "nothing named": ({}, "bytes of no tensor"),
    "metadata": ({"__metadata__": {"a": 1}, "a": entry()}, "__metadata__"),
    "metadata list": ({"__metadata__": ["a"], "a": entry()}, "__metadata__"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_error(tmp_path, kind):
    content, message = DAMAGED[kind]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_file(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_damaged_header_is_one_error(tmp_path, kind):
    header, message = HEADERS[kind]
    with pytest.raises(ValueError, match=message) as caught:
        open_file(a_file(tmp_path / "x", header, b"\0" * 4))
    assert len(str(caught.value)) < 500


def test_what_a_header_claims_is_not_allocated(tmp_path):
    files = [content for content, _ in DAMAGED.values()]
    for i, (header, _) in enumerate(HEADERS.values()):
        files.append(a_file(tmp_path / f"header {i}", header, b"\0" * 4).read_bytes())
    tracemalloc.start()
    for content in files:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError):
            open_file(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_bytes_that_are_not_read_exactly(tmp_path):
    tensors = open_file(a_file(tmp_path / "x", {"a": entry("BOOL", (4,))}, b"\0\1\2\1"))
    assert tensors["a"][:2].tolist() == [False, True]
    with pytest.raises(ValueError, match="neither true nor false"):
        np.asarray(tensors["a"])


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    write_file(tmp_path / "x", {"x": np.arange(100.0)})
    x = open_file(tmp_path / "x")["x"]
    os.truncate(tmp_path / "x", 500)
    assert x[:10].tolist() == list(range(10))
    with pytest.raises(ValueError, match="ends at byte 500"):
        np.asarray(x)


def test_a_file_is_open_as_long_as_its_tensors(tmp_path):
    write_file(tmp_path / "x", {"x": np.arange(4.0), "y": np.arange(3)})
    tensors = open_file(tmp_path / "x")
    y = tensors["y"]
    del tensors
    gc.collect()
    assert y[1:].tolist() == [1, 2]
    descriptor = y._file.descriptor
    del y
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_not_written(tmp_path):
    write_file(tmp_path / "x", {"x": np.arange(4.0)})
    before = (tmp_path / "x").read_bytes()
    with pytest.raises(ValueError, match="nothing is written over"):
        write_file(tmp_path / "x", {"x": np.arange(3.0)})
    assert (tmp_path / "x").read_bytes() == before
    for name, array in (("c", np.zeros(2, complex)), ("__metadata__", np.zeros(2)), ("o", np.array([None]))):
        with pytest.raises(ValueError, match=f"{name}: .*cannot be written"):
            write_file(tmp_path / "y", {name: array})
    with pytest.raises(ValueError, match="texts by name"):
        write_file(tmp_path / "y", {"x": np.zeros(2)}, {"step": 3})  # type: ignore[dict-item]
    assert not (tmp_path / "y").exists()


def test_a_thousand_mutations(tmp_path):
    """Each is an error of ours or a right read: dtype, shape and bytes are the header's."""
    chance = random.Random(0)
    length = struct.unpack("<Q", PACKAGE[:8])[0]
    read = refused = 0
    for i in range(1000):
        content = mutated(chance, PACKAGE, 8 + length)
        path = tmp_path / str(i)
        path.write_bytes(content)
        arrays, error = all_of(path)
        if error is not None:
            assert str(path) in error
            refused += 1
            continue
        read += 1
        head = struct.unpack("<Q", content[:8])[0]
        said = json.loads(content[8 : 8 + head])
        said.pop("__metadata__", None)
        assert said.keys() == arrays.keys()
        total = 0
        for name, given in said.items():
            start, stop = given["data_offsets"]
            assert arrays[name].tobytes() == content[8 + head + start : 8 + head + stop]
            assert safetensors._NAMES[arrays[name].dtype] == given["dtype"]
            assert list(arrays[name].shape) == given["shape"]
            total += stop - start
        assert total == len(content) - 8 - head
    assert read > 100
    assert refused > 500


def all_of(path):
    try:
        return {name: np.asarray(x) for name, x in open_file(path).items()}, None
    except ValueError as error:
        return {}, str(error)


def mutated(chance: random.Random, content: bytes, begin: int) -> bytes:
    """One to three changes: of the header's length, its bytes, numbers and words, of data, or of the end."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(9)
        at = chance.randrange(8, begin)
        if kind == 0:
            data[chance.randrange(8)] = chance.randrange(256)
        elif kind == 1:
            data[at] = chance.randrange(256)
        elif kind == 2:
            del data[chance.randrange(len(data)) :]
            data += b"\0" * chance.choice([0, 0, 1, 8])
        elif kind in (3, 4):
            data[chance.randrange(begin, len(data))] ^= 1
        elif kind == 5:
            data[chance.randrange(begin, len(content)) :] += bytes([chance.randrange(256)])
        else:
            head = bytes(data[8:begin])
            old, new = chance.choice(SWAPS)
            places = [i for i in range(len(head)) if head.startswith(old, i)]
            if places:
                place = chance.choice(places)
                head = head[:place] + new + head[place + len(old) :]
                data[:begin] = struct.pack("<Q", len(head)) + head
                begin = 8 + len(head)
        if len(data) < begin + 1:
            break
    return bytes(data)


SWAPS = [
    (b"2", b"-2"),
    (b"2", b"3"),
    (b"4", b"99999999999999999999"),
    (b"0", b"1e3"),
    (b"[", b"[["),
    (b"[", b"[0,"),
    (b"F32", b"F8_E5M2"),
    (b"F32", b"I32"),
    (b"BF16", b"F16"),
    (b"U8", b"I8"),
    (b"U8", b"BOOL"),
    (b'"w"', b'"h"'),
    (b'"w"', b'"\\ud800"'),
    (b'"b"', b'"another name"'),
    (b"pt", b"np"),
    (b"16", b"17"),
    (b"24", b"16"),
    (b"3,4", b"4,3"),
    (b"3,4", b"12"),
    (b"shape", b"dtype"),
    (b",", b" , "),
    (b"}", b"}}"),
]
