"""The table of methods is complete and true, and the pages that show it are made from it.

JAXPREF_WRITE_GOLDEN=1 pytest tests/test_methods.py writes the pages anew.
"""

import ast
import inspect
import os
import pathlib
import re

import pytest

from jaxpref import cli
from jaxpref.methods import FAMILIES, METHODS, table

PAGES = {
    "README.md": table.summary,
    "METHODS.md": table.family_list,
    "jaxpref/losses/README.md": table.markdown,
}
ALL = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_table(repository, page):
    path = repository / page
    before, marker, rest = path.read_text().partition("<!-- methods -->\n")
    assert marker, page
    shown, end, after = rest.partition("<!-- /methods -->")
    assert end, page
    expected = PAGES[page](FAMILIES) + "\n"
    if os.environ.get("JAXPREF_WRITE_GOLDEN"):
        path.write_text(before + marker + expected + end + after)
        return
    new = [line for line in expected.splitlines() if line not in shown.splitlines()]
    same = shown == expected  # pytest would print the whole page
    assert same, (
        f"{page} is not what the rows of jaxpref/methods say; it lacks {new or 'nothing, but has more'}: "
        "run `JAXPREF_WRITE_GOLDEN=1 pytest tests/test_methods.py` and commit it"
    )


def test_the_tables_written_by_hand_name_what_exists(repository):
    """Names in code spans of METHODS.md below the golden: functions, arguments, modules or experiments."""
    _, _, page = (repository / "METHODS.md").read_text().partition("<!-- /methods -->")
    known = set()
    for path in (*repository.glob("jaxpref/**/*.py"), *repository.glob("experiments/*.py")):
        known |= {*path.relative_to(repository).with_suffix("").parts}
        for node in ast.walk(ast.parse(path.read_text())):
            known |= {getattr(node, field, None) for field in ("name", "arg")}
    spans = [re.sub(r'"\w+"|\.py\b', "", span) for span in re.findall(r"`([^`]+)`", page)]
    named = {word for span in spans for word in re.findall(r"\b[a-z]\w{2,}", span)}
    assert len(named) > 60
    missing = sorted(named - known)
    assert not missing, f"METHODS.md names {missing}, which no file of jaxpref or experiments defines"


@ALL
def test_no_cell_is_empty_and_a_gap_has_its_reason(method):
    fields = ("title", "formula", "score", "defaults", "identities", "parity", "real")
    cells = {field: getattr(method, field).strip() for field in fields}
    empty = [field for field, text in cells.items() if not text]
    assert not empty, (
        f"{method.name}: {empty} are empty in its row in jaxpref/methods. jaxpref/methods/base.py says what "
        "each is for; for parity and real, what there is none of: 'none: why'"
    )
    unsaid = [
        f for f, text in cells.items() if text.startswith("none") and not re.match("none: .{10,}", text)
    ]
    assert not unsaid, (
        f"{method.name}: why are {unsaid} none? Write 'none: ' and the reason (10 letters or more)"
    )


@ALL
def test_a_docstring_says_where_its_defaults_come_from(method):
    """A paper, released code, another library, another method, or "ours": no number without an origin."""
    if method.defaults == "-" or not method.hyper_parameters:
        return
    text = inspect.getdoc(method.loss) or ""
    told = text.partition("Args:")[2].partition("Returns:")[0] + "".join(
        line for line in text.splitlines() if "default" in line
    )
    origin = r"paper|released|\bours\b|\bTRL\b|HALOs|\bport\b|recipe|\bcode\b|DPO's|\bas (in |`)|\bsee `"
    assert re.search(origin, told), (
        f"{method.name}: say under Args where {method.hyper_parameters} come from (its row says "
        f"{method.defaults!r}; a default without a source is 'ours')"
    )


@ALL
def test_evidence_exists(repository, method):
    """What a row points to is there: the files of identities name the loss, and so do those of parity."""
    folder = repository / "tests" / "losses"
    tests = {p.name: p.read_text() for p in folder.glob("test_*.py") if p.name != "test_conformance.py"}
    named = re.compile(rf"\b(losses\.{method.name}|{method.name})\b")
    naming = [name for name, text in tests.items() if named.search(text)]
    assert naming, (
        f"no test of identities names {method.name}: write one in tests/losses, where its value is known "
        "(a special case that is another loss, a limit, a number by hand)"
    )
    if not method.parity.startswith("none"):
        outside = re.compile(r"trl|rax|stigler|citations|electricity", re.I)
        assert any(outside.search(tests[name]) for name in naming), (
            f"{method.name}: the row claims {method.parity!r}, and no test that names the loss compares it "
            f"with outside numbers ({outside.pattern}): add one, or write 'none: why'"
        )
    for file in re.findall(r"experiments/[\w/]+\.py", method.real):
        text = (repository / file).read_text()
        helpers = [
            pathlib.Path(repository / "experiments" / f"{m}.py")
            for m in re.findall(r"from (_\w+) import", text)
        ]
        assert any(method.name in t for t in (text, *(p.read_text() for p in helpers))), (
            f"{method.name}: the row claims {file}, which does not name the loss"
        )


def test_the_command_prints_every_method_by_every_kind_of_evidence(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    for method in METHODS:
        assert re.search(rf"^{method.name}  ", out, re.M)
    for kind in table.EVIDENCE:
        assert len(re.findall(rf"^    {kind} ", out, re.M)) == len(METHODS)
    assert cli.main(["methods", "dpo"]) == 0
    assert "2305.18290" in capsys.readouterr().out
    assert cli.main(["methods", "dop"]) == 2
    assert "near: dpo" in capsys.readouterr().err
