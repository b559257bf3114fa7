"""TFDS builder of Anthropic's HH-RLHF helpful pairs (Bai et al. 2022, arXiv:2204.05862; MIT licence).

Importing this module registers `anthropic_hh` with TFDS, so `tfds.load("anthropic_hh/helpful-base")` works.
It downloads the public files, whose sizes and checksums are in `checksums.tsv`, or reads `data_root`.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxpref.data.sources import SourceFile, read_rows
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.hh_files import hh_source
from jaxpref.data.text.pairs import hh_pair

__all__ = ["SUBSETS", "AnthropicHH"]

SUBSETS = ("helpful-base", "helpful-online", "helpful-rejection-sampled")

PAIR_FEATURES = {
    "prompt": tfds.features.Text(),
    "chosen": tfds.features.Text(),
    "rejected": tfds.features.Text(),
    "turns": tfds.features.Text(doc="the prompt's turns as JSON [[role, content], ...]; [] for plain text"),
    "group": np.int64,
}


def count_drops(builder: tfds.core.DatasetBuilder, split: str, drops: Counter[str]) -> None:
    """Notes what a split left out in the builder's metadata, which TFDS stores with the data."""
    metadata: Any = builder.info.metadata
    metadata["drops"][split] = dict(drops)


class AnthropicHH(tfds.core.GeneratorBasedBuilder):
    """Pairs of replies to one dialogue; the text of a completion is `prompt + chosen`.

    Pairs whose prompts differ are dropped and counted in `builder.info.metadata["drops"][split]`.
    """

    # TFDS 4.9.10 finds this out through importlib_resources, which it does not install; `checksums.tsv` is
    # looked for beside it.
    code_path = epath.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in SUBSETS)

    def __init__(
        self, *, data_root: str | None = None, splits: tuple[str, ...] = ("train", "test"), **kwargs: Any
    ):
        """`data_root`: see `hh_files.hh_source`; `splits`: which to build (a local root may hold one)."""
        self._data_root = data_root
        self._splits = tuple(splits)
        # as_dataset, and so SeqIO, can read this format and not the other ones.
        kwargs.setdefault("file_format", "tfrecord")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Human preferences between two replies of an assistant asked for help.",
            features=tfds.features.FeaturesDict(PAIR_FEATURES),
            homepage="https://github.com/anthropics/hh-rlhf",
            citation="Bai et al. (2022). Training a Helpful and Harmless Assistant with Reinforcement "
            "Learning from Human Feedback. arXiv:2204.05862.",
            metadata=tfds.core.MetadataDict(drops={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        assert self.builder_config is not None  # TFDS picks the first where none is named
        subset = self.builder_config.name
        sources = {split: hh_source(self._data_root, subset, split) for split in self._splits}
        urls = {split: source.url for split, source in sources.items() if source.url}
        paths: Any = dl_manager.download(urls) if urls else {}
        return {
            split: self._generate_examples(source, str(paths.get(split, source.path)), split)
            for split, source in sources.items()
        }

    def _generate_examples(
        self, source: SourceFile, path: str, split: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        drops: Counter[str] = Counter()
        for number, where, row in read_rows(path, source.name):
            if not (isinstance(row, dict) and isinstance(row.get("chosen"), str) and "rejected" in row):
                raise ValueError(f"{where}: expected an object with texts chosen and rejected")
            pair = hh_pair(row["chosen"], row["rejected"])
            if isinstance(pair, Drop):
                drops[pair.reason] += 1
                continue
            turns = [(turn["role"], turn["content"]) for turn in pair.prompt.turns]
            texts = {"chosen": pair.chosen["content"], "rejected": pair.rejected["content"]}
            row = {"prompt": pair.prompt.text, "turns": json.dumps(turns), "group": pair.prompt.group}
            yield number, row | texts
        count_drops(self, split, drops)
