"""Records in an object store: written there file by file, and read from a local copy.

Records are memory-mapped, and a store cannot be. So a folder of a store is copied once to `$JAXPREF_CACHE`
(default `~/.cache/jaxpref`) under a hash of its URL, its manifest, which has a checksum of each file, and the
size and time of each file. A copy that differs from the manifest is refused.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from pathlib import Path

from jaxpref.data.cache import cache_root, only_one
from jaxpref.data.records import Records
from jaxpref.data.records_io import MANIFEST, write_records
from jaxpref.data.sources import sha256_of
from jaxpref.paths import AnyPath, as_path, read_text

__all__ = ["local_records", "write_records_to"]

logger = logging.getLogger("jaxpref.data")


def write_records_to(records: Records, folder: AnyPath) -> None:
    """`write_records(..., overwrite=True)` to any path.

    A store has no rename of folders: there the old manifest is removed first and the new one comes last, so
    that the records count only while all of their files are there.
    """
    if isinstance(folder, Path):
        write_records(records, folder, overwrite=True)
        return
    with tempfile.TemporaryDirectory(prefix="jaxpref-") as temporary:
        made = Path(temporary) / "records"
        write_records(records, made)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in sorted(made.iterdir(), key=lambda f: (f.name == MANIFEST, f.name)):
            (folder / file.name).write_bytes(file.read_bytes())


def local_records(directory: str) -> Path:
    """`directory` itself where it is of this machine, otherwise a copy of it that is.

    Raises:
      ValueError: there are no records there, or its scheme cannot be read (see `paths.as_path`).
    """
    folder = as_path(directory)
    if isinstance(folder, Path):
        return folder
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"records: {directory} has no {MANIFEST}; it is not a directory of prepared records")
    text = read_text(folder / MANIFEST)
    manifest = json.loads(text)
    entries = [*manifest["files"].values(), *manifest["columns"].values()]
    names = sorted(entry["file"] for entry in entries)
    found = [(stat.length, stat.mtime) for stat in ((folder / name).stat() for name in names)]
    key = hashlib.sha256(json.dumps([directory, text, found]).encode()).hexdigest()[:20]
    target = cache_root() / "remote" / key
    with only_one(target.with_suffix(".lock")):
        if not target.is_dir():
            size = sum(length for length, _ in found)
            logger.info("records: copying %s (%.1f MB) to %s", directory, size / 1e6, target)
            _copy(folder, [MANIFEST, *names], target, {e["file"]: e.get("sha256") for e in entries})
    return target


def _copy(folder: AnyPath, names: list[str], target: Path, checksums: dict[str, str | None]) -> None:
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    partial.mkdir(parents=True)
    try:
        for name in names:
            with (folder / name).open("rb") as source, (partial / name).open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 24)
            expected = checksums.get(name)
            if expected is not None and sha256_of(partial / name) != expected:
                raise ValueError(
                    f"records: {folder / name} is not the file that {MANIFEST} beside it names (its sha256 "
                    "differs): it was replaced, or is being written; prepare the records again"
                )
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
