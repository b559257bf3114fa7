"""JSON-lines files for the tests of data."""

import json

__all__ = ["jsonl", "sums"]


def jsonl(folder, *rows, name="pairs.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def sums(count, tag=""):
    return [{"prompt": f"{tag}{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i + 2}"} for i in range(count)]
