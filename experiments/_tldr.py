"""TL;DR summaries of Reddit posts: demonstrations, human comparisons and prompts, from four JSON-lines files.

    demonstrations.train.jsonl  demonstrations.valid.jsonl  {"prompt", "completion", "label": true, "group"}
    comparisons.train.jsonl     comparisons.valid.jsonl     {"prompt", "chosen", "rejected", "group"}

A prompt is `PROMPT` below, a completion begins with a space, a group is the id of the post: the comparisons
of one post stay on one side of every split, and count as one cluster.

The public files (Stiennon et al. 2020, arXiv:2009.01325; README of github.com/openai/summarize-from-feedback)
lie at https://openaipublic.blob.core.windows.net/summarize-from-feedback/ : `datasets/tldr_3_filtered/` has
train.jsonl, valid.jsonl and test.jsonl, and `dataset/comparisons/` has batch*.json (azcopy). This writes the
four files; comparisons of "valid1" and "valid2" and posts of valid.jsonl are the held-out ones:

    python experiments/_tldr.py TLDR_3_FILTERED COMPARISONS DIR

Differs from the released code, which shortens a post that is too long at its last line break that fits: such
rows are dropped here (and counted in the manifest of the records), since neither the end of the prompt nor
its start can go.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxpref.data import Records, Tokenizer
from jaxpref.data.prepare import jsonl_labelled, jsonl_pairs
from jaxpref.data.sources import read_rows

PROMPT = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
PROMPT_LENGTH = 512  # tokens, as in the released code
RESPONSE_LENGTH = 53  # tokens, EOS included: that of later reproductions with Pythia (arXiv:2403.17031)


def tldr_demonstrations(
    *,
    data_root: str,
    tokenizer: Callable[[], Tokenizer],
    split: str = "train",
    prompt_length: int = PROMPT_LENGTH,
    response_length: int = RESPONSE_LENGTH,
) -> Records:
    """Summaries people wrote of their own posts, one each (k = 1); also the prompts of online methods, which
    do not look at the summaries. `split`: "train" or "valid"."""
    return _read(
        jsonl_labelled, data_root, "demonstrations", split, tokenizer, prompt_length, response_length
    )


def tldr_comparisons(
    *,
    data_root: str,
    tokenizer: Callable[[], Tokenizer],
    split: str = "train",
    prompt_length: int = PROMPT_LENGTH,
    response_length: int = RESPONSE_LENGTH,
) -> Records:
    """Pairs of summaries that a person compared, chosen first. `split`: "train" or "valid"."""
    return _read(jsonl_pairs, data_root, "comparisons", split, tokenizer, prompt_length, response_length)


def demonstration_line(row: dict[str, Any]) -> dict[str, Any]:
    """A line of tldr_3_filtered: id, subreddit, title, post, summary."""
    text = {"prompt": PROMPT.format(**row), "completion": " " + row["summary"].strip()}
    return text | {"label": True, "group": row["id"]}


def comparison_line(row: dict[str, Any]) -> dict[str, Any] | None:
    """A line of the comparisons; None for those of news articles, which have no post."""
    if "post" not in row["info"]:
        return None
    chosen, rejected = (row["summaries"][i]["text"] for i in (row["choice"], 1 - row["choice"]))
    text = {"prompt": PROMPT.format(**row["info"]), "chosen": chosen, "rejected": rejected}
    return text | {"group": row["info"]["id"]}


def write(posts: Path, comparisons: Path, out: Path) -> None:
    """The four files in `out`, from the folders of the public ones."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        given = (demonstration_line(row) for _, _, row in read_rows(posts / f"{split}.jsonl"))
        _write(out / f"demonstrations.{split}.jsonl", given)
        _write(out / f"comparisons.{split}.jsonl", _compared(comparisons, split))


def _compared(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.json")):
        for _, _, row in read_rows(file):
            line = comparison_line(row) if row["split"].rstrip("12") == split else None
            if line is not None:
                yield line


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def _read(
    reader: Callable[..., Records],
    data_root: str,
    kind: str,
    split: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
) -> Records:
    path = Path(data_root) / f"{kind}.{split}.jsonl"
    if not path.is_file():
        raise ValueError(
            f"TL;DR: no file {path}; experiments/_tldr.py says where the public files are and makes it"
        )
    return reader(
        path=str(path),
        tokenizer=tokenizer,
        prompt_length=prompt_length,
        response_length=response_length,
        truncate_prompt="drop",
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python experiments/_tldr.py TLDR_3_FILTERED COMPARISONS DIR")
    write(*map(Path, sys.argv[1:]))
