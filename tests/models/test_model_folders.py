"""Folders of weights: one file or shards, whole or refused, and written whole or not at all."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxpref.models.hub import folder, writing
from jaxpref.models.hub.folder import INDEX, WHOLE, open_folder
from jaxpref.models.hub.safetensors import read_header, write_file
from jaxpref.models.hub.writing import whole_folder, write_tensors

TENSORS = {f"layer.{i}.weight": np.arange(12, dtype=np.float32).reshape(3, 4) * i for i in range(5)}


def written(directory, **options):
    with whole_folder(directory) as partial:
        write_tensors(partial, TENSORS.items(), **options)
    return directory


@pytest.fixture
def sharded(tmp_path):
    return written(tmp_path / "model", max_shard_bytes=100)


def assert_whole(directory):
    read = open_folder(directory)
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(np.asarray(read[name]), array)


def test_one_file_where_it_fits(tmp_path):
    assert_whole(written(tmp_path / "model", max_shard_bytes=240))
    assert [p.name for p in (tmp_path / "model").iterdir()] == [WHOLE]


def test_shards_with_an_index(sharded):
    assert_whole(sharded)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(p.name for p in sharded.iterdir()) == [*names, INDEX]
    index = json.loads((sharded / INDEX).read_text())
    assert index["metadata"] == {"total_size": 240}
    assert list(index["weight_map"].items()) == list(
        zip(TENSORS, [names[0]] * 2 + [names[1]] * 2 + [names[2]], strict=True)
    )
    assert read_header(sharded / names[0]).metadata == {"format": "pt"}


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path):
    assert_whole(written(tmp_path / "model", max_shard_bytes=1))
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == 5


def changed(index, weight_map):
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | weight_map}))


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "/etc/x.safetensors", "a\\x.safetensors", "a/x.safetensors", "C:x.safetensors"),
        *("..", "", "x.bin", ".x.safetensors", "x\0.safetensors", "x.safetensors\n"),
    ],
)
def test_names_of_shards_stay_in_the_folder(sharded, name):
    write_file(sharded.parent / "x.safetensors", {"layer.0.weight": TENSORS["layer.0.weight"]})
    changed(sharded / INDEX, {"layer.0.weight": name})
    with pytest.raises(ValueError, match="shards are files of the same folder"):
        open_folder(sharded)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "{", "\xff"]
)
def test_an_index_that_is_none(sharded, text):
    (sharded / INDEX).write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=INDEX):
        open_folder(sharded)


def test_index_and_shards_must_agree(sharded, monkeypatch):
    index = (sharded / INDEX).read_text()
    first, second, third = sorted(p.name for p in sharded.glob("*.safetensors"))

    def refused(message, weight_map):
        (sharded / INDEX).write_text(index)
        changed(sharded / INDEX, weight_map)
        with pytest.raises(ValueError, match=message):
            open_folder(sharded)

    refused(
        "names model-00009.safetensors, which is not there", {"layer.0.weight": "model-00009.safetensors"}
    )
    refused(f"{first} has no tensor 'layer.9.weight'", {"layer.9.weight": first})
    refused(f"{first} has a tensor 'layer.0.weight' that .* does not place there", {"layer.0.weight": second})
    (sharded / INDEX).write_text(index.replace('"layer.1.weight"', '"layer.0.weight"'))
    with pytest.raises(ValueError, match=r"'layer.0.weight' is there twice"):
        open_folder(sharded)
    (sharded / INDEX).write_text(index)
    monkeypatch.setattr(folder, "_LARGEST_INDEX", 10)
    with pytest.raises(ValueError, match="bytes are no index"):
        open_folder(sharded)
    monkeypatch.undo()
    (sharded / third).unlink()
    with pytest.raises(ValueError, match=f"names {third}, which is not there"):
        open_folder(sharded)


def test_two_candidates_are_none(sharded):
    write_file(sharded / WHOLE, TENSORS)
    with pytest.raises(ValueError, match="which of them is the model cannot be told"):
        open_folder(sharded)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "its weights are missing"),
        (["pytorch_model.bin", "config.json"], "only pytorch_model.bin: a pickle, .*save_pretrained"),
        (["consolidated.00.pth"], "only consolidated.00.pth: a pickle"),
        (["model.fp16.safetensors"], "but model.fp16.safetensors; rename"),
        (["model-Q8_0.gguf"], "only model-Q8_0.gguf; convert it to safetensors with jaxpref convert"),
        (["tf_model.h5"], "only tf_model.h5; convert it"),
    ],
)
def test_what_else_lies_there_is_said(tmp_path, files, message):
    for file in files:
        (tmp_path / file).write_bytes(b"never read")
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_links_of_a_cache_are_followed(sharded, tmp_path):
    """As the hub's own cache lays folders out: links to blobs elsewhere."""
    (tmp_path / "links").mkdir()
    for file in sharded.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert_whole(tmp_path / "links")
    with pytest.raises(ValueError, match="no such folder"):
        open_folder(sharded / INDEX)


def test_what_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="without tensors"):
        write_tensors(tmp_path, [])
    with pytest.raises(ValueError, match="two tensors have the name 'a'"):
        write_tensors(tmp_path, [("a", np.zeros(2)), ("a", np.zeros(2))])
    with pytest.raises(ValueError, match="max_shard_bytes=0"):
        write_tensors(tmp_path, TENSORS.items(), max_shard_bytes=0)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(sharded, tmp_path):
    before = {p: p.read_bytes() for p in sharded.iterdir()}
    with pytest.raises(ValueError, match="nothing is written over"):
        written(sharded)
    with pytest.raises(ValueError, match="nothing is written over"):
        write_tensors(sharded, TENSORS.items(), max_shard_bytes=100)
    assert {p: p.read_bytes() for p in sharded.iterdir()} == before
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="nothing is written over"):
        written(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert_whole(written(tmp_path / "empty"))

    def twice():
        with whole_folder(tmp_path / "late") as partial:
            write_tensors(partial, TENSORS.items())
            written(tmp_path / "late")

    with pytest.raises(ValueError, match="nothing is written over"):
        twice()
    assert_whole(tmp_path / "late")
    assert not list(tmp_path.glob(".*"))


def test_a_failed_export_leaves_nothing(tmp_path):
    class Failing(writing.LazyArray):
        def pieces(self, bounds):
            raise OSError(28, "No space left on device")
            yield

    with pytest.raises(OSError, match="No space"), whole_folder(tmp_path / "model") as partial:
        write_tensors(partial, [*TENSORS.items(), ("last", Failing((4,), np.float32))], max_shard_bytes=100)
    assert not list(tmp_path.iterdir())


# Without what the package imports besides, which takes four seconds.
KILLED = """
import os, signal, sys, types
import numpy as np
import jaxpref.models
sys.modules["jaxpref.models.hub"] = package = types.ModuleType("jaxpref.models.hub")
package.__path__ = [os.path.join(path, "hub") for path in jaxpref.models.__path__]
from jaxpref.models.hub import writing
class Killing(writing.LazyArray):
    def pieces(self, bounds):
        os.kill(os.getpid(), signal.SIGKILL)
        yield
with writing.whole_folder(sys.argv[1]) as partial:
    tensors = {f"{i}": np.zeros(100) for i in range(9)} | {"last": Killing((4,), np.float32)}
    writing.write_tensors(partial, tensors.items(), max_shard_bytes=1000)
"""


def test_a_killed_export_leaves_no_folder_of_its_name(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "model")], timeout=120)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".model.")
    assert left.name.endswith(".partial")
    assert len(os.listdir(left)) > 4
    with pytest.raises(ValueError, match="has neither"):
        open_folder(left)
    assert_whole(written(tmp_path / "model"))
