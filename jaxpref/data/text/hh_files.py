"""The public files of Anthropic HH: where they are, and whether they are intact."""

from pathlib import Path

from jaxpref.data.sources import SourceFile, sha256_of

__all__ = ["CHECKSUMS", "hh_source"]

CHECKSUMS = Path(__file__).with_name("checksums.tsv")  # TFDS reads it too: url, bytes, sha256, file name
_HH_HOME = "https://github.com/anthropics/hh-rlhf"


def hh_source(data_root: str | None, subset: str, split: str) -> SourceFile:
    """The file of one subset and split of Anthropic HH.

    `data_root` holds `SUBSET.SPLIT.jsonl.gz` or `SUBSET/SPLIT.jsonl.gz`, itself or in a folder `hh_rlhf`; the
    file must match the `SHA256SUMS` beside it or one folder up, or, where there is none that lists it, the
    public repository's checksum. With None, the result is the public file to download.

    Raises ValueError for a missing root or file and for a checksum that does not match.
    """
    official = _official(subset, split)
    if data_root is None:
        if official is None:
            raise ValueError(
                f"Anthropic HH: no checksum of {subset}/{split} is known to this version; download it from "
                f"{_HH_HOME} and pass data_root"
            )
        return official
    root = Path(data_root)
    where = f"download {subset}/{split}.jsonl.gz from {_HH_HOME} (Git LFS), or leave data_root out to do so"
    if not root.is_dir():
        raise ValueError(f"Anthropic HH: data_root {data_root} does not exist; {where}")
    names = (f"{subset}.{split}.jsonl.gz", f"{subset}/{split}.jsonl.gz")
    paths = [folder / name for folder in (root, root / "hh_rlhf") for name in names]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise ValueError(f"Anthropic HH: {data_root} has neither {names[0]} nor {names[1]}; {where}")
    actual = sha256_of(path)
    expected, listed_in = _listed(path, root), "SHA256SUMS"
    if expected is None and official is not None:
        expected, listed_in = official.sha256, _HH_HOME
    if expected not in (None, actual):
        raise ValueError(
            f"Anthropic HH: checksum mismatch: {path} has sha256 {actual[:16]}..., {listed_in} says "
            f"{str(expected)[:16]}...; {where}. To use this copy as it is, list it in {root}/SHA256SUMS"
        )
    return SourceFile(f"{subset}/{split}", actual, path=str(path))


def _official(subset: str, split: str) -> SourceFile | None:
    for line in CHECKSUMS.read_text().splitlines():
        url, _, sha256, _ = line.split("\t")
        if url.endswith(f"/{subset}/{split}.jsonl.gz"):
            return SourceFile(f"{subset}/{split}", sha256, url=url)
    return None


def _listed(path: Path, root: Path) -> str | None:
    for folder in (path.parent, *path.parent.parents):
        sums = folder / "SHA256SUMS"
        if sums.is_file():
            for line in sums.read_text().splitlines():
                digest, _, name = line.partition(" ")
                if name and (folder / name.strip().removeprefix("*")).resolve() == path.resolve():
                    return digest
        if folder == root.parent:
            break
    return None
