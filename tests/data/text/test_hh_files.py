"""Finding and checking the files of Anthropic HH; the errors a user meets first."""

import gzip
import hashlib
import json
import shutil

import pytest

from jaxpref.data.text.hh_files import CHECKSUMS, hh_source

ROW = (
    json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}) + "\n"
)
NAME = "helpful-base.test.jsonl.gz"


@pytest.fixture
def root(tmp_path):
    """A root with one small file and the SHA256SUMS that vouches for it."""
    folder = tmp_path / "hh_rlhf"
    folder.mkdir()
    (folder / NAME).write_bytes(gzip.compress(ROW.encode(), mtime=0))
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  ./hh_rlhf/{NAME}\n")
    return tmp_path


class TestHhSource:
    def test_either_folder_and_either_layout(self, root):
        found = hh_source(str(root), "helpful-base", "test")
        assert found == hh_source(str(root / "hh_rlhf"), "helpful-base", "test")
        official = root / "hh_rlhf" / "helpful-base"
        official.mkdir()
        shutil.move(root / "hh_rlhf" / NAME, official / "test.jsonl.gz")
        (official / "SHA256SUMS").write_text(f"{found.sha256}  test.jsonl.gz\n")
        assert hh_source(str(root), "helpful-base", "test").sha256 == found.sha256

    def test_missing_root_and_file(self, root):
        with pytest.raises(
            ValueError, match=r"data_root /nowhere does not exist; download .*github\.com/anthropics"
        ):
            hh_source("/nowhere", "helpful-base", "test")
        with pytest.raises(ValueError, match=r"has neither helpful-base\.train\.jsonl\.gz nor .*github\.com"):
            hh_source(str(root), "helpful-base", "train")

    def test_checksum_mismatch(self, root):
        path = root / "hh_rlhf" / NAME
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(ValueError, match=r"checksum mismatch: .*helpful-base\.test.*SHA256SUMS says"):
            hh_source(str(root), "helpful-base", "test")

    def test_without_sums_the_public_checksum_counts(self, root, data_root):
        (root / "SHA256SUMS").unlink()
        with pytest.raises(
            ValueError, match=r"checksum mismatch.*github\.com/anthropics/hh-rlhf says 8be3fc1a"
        ):
            hh_source(str(root), "helpful-base", "test")
        shutil.copy(data_root / "hh_rlhf" / NAME, root / "hh_rlhf" / NAME)
        assert hh_source(str(root), "helpful-base", "test").sha256.startswith("8be3fc1a")

    def test_download(self):
        source = hh_source(None, "helpful-rejection-sampled", "train")
        assert source.url.endswith("/helpful-rejection-sampled/train.jsonl.gz")
        assert source.path is None
        with pytest.raises(ValueError, match="no checksum of helpful-nothing/test is known"):
            hh_source(None, "helpful-nothing", "test")

    def test_real_file_is_the_public_one(self, data_root):
        found = hh_source(str(data_root), "helpful-base", "test")
        listed = [line for line in CHECKSUMS.read_text().splitlines() if "helpful-base/test" in line]
        assert listed[0].split("\t")[2] == found.sha256
        path = data_root / "hh_rlhf" / NAME
        assert int(listed[0].split("\t")[1]) == path.stat().st_size
