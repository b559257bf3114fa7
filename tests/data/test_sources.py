"""Reading the files of data sets; the errors a user meets first."""

import gzip
import json

import pytest

from jaxpref.data.sources import count_rows, read_rows, source_of


def rows(path):
    return [(number, value) for number, _, value in read_rows(path)]


class TestJsonLines:
    def test_line_numbers_count_blank_lines(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('1\n\n  \n{"x": 2}\n')
        assert rows(tmp_path / "a.jsonl") == [(1, 1), (4, {"x": 2})]

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_byte_order_mark_and_other_line_ends(self, tmp_path, pack):
        (tmp_path / "a.jsonl").write_bytes(pack(b'\xef\xbb\xbf{"x": 1}\r\n{"x": "\xc3\xa4\xe2\x80\xa8"}\r\n'))
        assert rows(tmp_path / "a.jsonl") == [(1, {"x": 1}), (2, {"x": "ä\u2028"})]
        assert count_rows(tmp_path / "a.jsonl") == 2

    @pytest.mark.parametrize("keep", [-4, -12, 30])
    def test_truncated_archive(self, tmp_path, keep):
        data = gzip.compress("".join(f"{i}\n" for i in range(1000)).encode())
        (tmp_path / "a.jsonl.gz").write_bytes(data[:keep])
        with pytest.raises(ValueError, match=r"a\.jsonl\.gz: damaged gzip file after line"):
            rows(tmp_path / "a.jsonl.gz")
        count_rows(tmp_path / "a.jsonl.gz")

    def test_missing(self, tmp_path):
        with pytest.raises(ValueError, match=r"none\.jsonl does not exist; give the path"):
            source_of(tmp_path / "none.jsonl")
        with pytest.raises(ValueError, match="is a folder; give the path"):
            source_of(tmp_path)


class TestArray:
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_the_rows_of_the_lines(self, tmp_path, pack, indent):
        values = [{"x": "a, [b]"}, {"y": [1, {"z": None}]}, 3]
        text = json.dumps(values, indent=indent)
        (tmp_path / "a.json").write_bytes(pack(b"\xef\xbb\xbf\n" + text.encode() + b"\n"))
        found = rows(tmp_path / "a.json")
        assert [value for _, value in found] == values
        starts = [2, 2, 2] if indent is None else [3, 6, 14]
        assert [number for number, _ in found] == starts
        assert count_rows(tmp_path / "a.json") is None

    def test_empty(self, tmp_path):
        (tmp_path / "a.json").write_text(" [ ]\n")
        assert rows(tmp_path / "a.json") == []

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[{"x": 1}\n {"x": 2}]', "2: not JSON: expected ',' or ']' after an element"),
            ('[{"x": 1},\n\n]', "3: not JSON: Expecting value"),
            ('[\n{"x": 1}', "2: not JSON: expected ',' or ']'"),
            ('[\n{"x": 1},\n{"x": }]', "3: not JSON: Expecting value"),
            ('[{"x": 1}]\n{"x": 2}', "json: not JSON: something follows the array"),
            ("[", "1: not JSON: Expecting value"),
        ],
    )
    def test_errors_have_the_line(self, tmp_path, text, message):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=message.replace("[", r"\[")):
            rows(tmp_path / "a.json")


class TestParquet:
    def test_rows(self, tmp_path):
        import pyarrow.parquet  # of the extra `dev`

        values = [{"prompt": f"{i}", "turns": [{"role": "user", "content": "Hi"}], "n": i} for i in range(3)]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(values), tmp_path / "a.parquet", row_group_size=2
        )
        found = list(read_rows(tmp_path / "a.parquet"))
        assert [row.value for row in found] == values
        assert found[2].where.endswith("a.parquet, row 3")

    def test_damaged(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more PAR1")
        with pytest.raises(ValueError, match=r"a\.parquet: damaged Parquet file after row 0: "):
            rows(tmp_path / "a.parquet")

    def test_without_pyarrow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        with pytest.raises(ImportError, match=r"pip install 'jaxpref\[parquet\]'"):
            rows(tmp_path / "a.parquet")
