"""Reading the files of data sets; the errors a user meets first."""

import gzip

import pytest

from jaxpref.data.sources import json_lines, source_of


class TestJsonLines:
    def test_line_numbers_count_blank_lines(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('1\n\n  \n{"x": 2}\n')
        assert list(json_lines(tmp_path / "a.jsonl")) == [(1, 1), (4, {"x": 2})]

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_malformed_line(self, tmp_path, pack):
        (tmp_path / "a.jsonl").write_bytes(pack(b'{"x": 1}\n{"x": \n'))
        with pytest.raises(ValueError, match=r"a\.jsonl:2: not JSON"):
            list(json_lines(tmp_path / "a.jsonl"))

    def test_not_utf8(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(b'1\n"\xff"\n')
        with pytest.raises(ValueError, match=r"a\.jsonl:2: not JSON"):
            list(json_lines(tmp_path / "a.jsonl"))

    @pytest.mark.parametrize("keep", [-4, -12, 30])
    def test_truncated_archive(self, tmp_path, keep):
        data = gzip.compress("".join(f"{i}\n" for i in range(1000)).encode())
        (tmp_path / "a.jsonl.gz").write_bytes(data[:keep])
        with pytest.raises(ValueError, match=r"a\.jsonl\.gz: damaged gzip file after line"):
            list(json_lines(tmp_path / "a.jsonl.gz"))

    def test_missing(self, tmp_path):
        with pytest.raises(ValueError, match=r"no file .*none\.jsonl; give the path"):
            source_of(tmp_path / "none.jsonl")
