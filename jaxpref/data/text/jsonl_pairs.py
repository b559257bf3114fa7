"""TFDS builder of pairs in a JSON-lines file of your own.

Each line is an object with `chosen`, `rejected` and usually `prompt`, texts or lists of turns; what is
accepted is written at `pairs.jsonl_pair`. Importing this module registers `jsonl_pairs` with TFDS.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from jaxpref.data.sources import json_lines
from jaxpref.data.text.anthropic_hh import PAIR_FEATURES, count_drops
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.pairs import jsonl_pair

__all__ = ["JsonlPairs"]


class JsonlPairs(tfds.core.GeneratorBasedBuilder):
    """One split, `train`, of the pairs of one file; drops are counted in `builder.info.metadata`."""

    code_path = epath.Path(__file__)  # as in anthropic_hh.py
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, path: str | None = None, **kwargs: Any):
        """`path`: a .jsonl or .jsonl.gz file; needed to build the data set, not to read it again."""
        self._path = path
        kwargs.setdefault("file_format", "tfrecord")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pairs of responses read from a JSON-lines file.",
            features=tfds.features.FeaturesDict(PAIR_FEATURES),
            metadata=tfds.core.MetadataDict(drops={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        if self._path is None:
            raise ValueError("JsonlPairs: pass path=... (builder_kwargs in tfds.load), the JSON-lines file")
        return {"train": self._generate_examples(self._path)}

    def _generate_examples(self, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
        drops: Counter[str] = Counter()
        for number, row in json_lines(path):
            try:
                pair = jsonl_pair(row)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if isinstance(pair, Drop):
                drops[pair.reason] += 1
                continue
            yield number, pair._asdict() | {"turns": json.dumps(pair.turns)}
        count_drops(self, "train", drops)
