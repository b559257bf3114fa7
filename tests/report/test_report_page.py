"""The whole page: complete, safe, self-contained, repeatable; and whatever a run lacks, still a page."""

import html.parser
import json
import re

import pytest
from fake_runs import write_run

from jaxpref.report import write_report
from jaxpref.report.figures import wrapped

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, and checks that every element is closed."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert not {"src", "srcset", "onload", "onerror"} & attributes.keys()
        self.scripts += tag == "script"
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def rendered(tmp_path, *runs):
    output = write_report(list(runs), tmp_path / "out" / "report.html")
    return Page(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run = write_run(folder / "run", num_steps=60)
    return run, write_report([run], folder / "out" / "report.html")


def test_one_run_shows_all_its_parts(one):
    _, output = one
    page = Page(output.read_text(encoding="utf-8"))
    for words in (
        "SFT then DPO on sums that a checker can grade",
        "0.610",
        "0.830",
        "+0.220",
        "better",
        "rewards/chosen and rejected",
        "tokens_per_second",
        "wrong, then right",
        "jaxpref.losses.pairwise.dpo",
        "jaxpref train experiments/quickstart.py beta=0.1 'workdir=runs/a b'",
        "0.12.8",
    ):
        assert words in page.text, words
    assert len(set(page.ids)) == len(page.ids)


def test_links_go_to_sections_and_to_known_papers_only(one):
    page = Page(one[1].read_text(encoding="utf-8"))
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2305.18290", "https://arxiv.org/abs/2402.03300v3"]
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "cs.LG/0000001x" in page.text  # not an id, so not a link


def test_nothing_is_loaded_from_outside(one):
    source = one[1].read_text(encoding="utf-8")
    assert "default-src 'none'" in source
    assert not re.findall(r"@import|url\((?!#)|<(?:link|img|iframe|object)\b", source)
    named = set(re.findall(r'(?:https?:)?//[^\s"<)]+', source))
    allowed = ("https://arxiv.org/abs/", "http://www.w3.org/")
    assert all(address.startswith(allowed) for address in named), named


def test_figures_are_on_disk_too(one):
    folder = one[1].parent / "report"
    names = {file.name for file in folder.iterdir()}
    assert {"dpo_loss.png", "dpo_rewards_chosen_and_rejected.png", "eval_dpo_checker_accuracy.png"} <= names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in folder.iterdir())


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_the_same_run_gives_the_same_bytes(one, tmp_path):
    run, output = one
    again = write_report([run], tmp_path / "report.html")
    assert again.read_bytes() == output.read_bytes()
    for file in (output.parent / "report").iterdir():
        assert (tmp_path / "report" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_figures_of_an_earlier_report_are_replaced(one, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "old.png").write_bytes(b"")
    write_report([one[0]], tmp_path / "report.html")
    assert not (tmp_path / "report" / "old.png").exists()


def test_several_runs_are_compared(tmp_path):
    runs = [
        write_run(
            tmp_path / f"b{i}", name=f"beta {b}", beta=b, seed=i, num_steps=50, brief=True, final_accuracy=a
        )
        for i, (b, a) in enumerate([(0.1, 0.83), (0.3, 0.70)])
    ]
    output = write_report(runs, tmp_path / "out" / "report.html")
    source = output.read_text(encoding="utf-8")
    page = Page(source)
    assert "Where the runs differ" in page.text
    differing = source[source.index("Where the runs differ") : source.index("Complete configuration of")]
    assert re.findall(r'"Setting"><div><code>([a-z.]+)</code>', differing) == [
        "stages.dpo.algorithm.loss.beta",
        "seed",
    ]
    best = re.findall(r'<strong class="best">([0-9.]+)', source)
    assert best[0] == "0.830"
    assert (output.parent / "report" / "final_checker_accuracy.png").exists()
    assert page.text.count("beta 0.3 (dpo, step 50)") == 14


def test_nothing_is_cut_and_nothing_is_wider_than_a_narrow_screen(one):
    """What a browser was looked at for at 400 pixels, as far as the source tells it."""
    source = one[1].read_text(encoding="utf-8")
    style = source[source.index("<style>") : source.index("</style>")]
    assert "ellipsis" not in style
    widest = re.findall(r"auto-fill, minmax\(([^,]+, \d+px\)|\d+px)", style)
    assert len(widest) == 4
    assert all(w.startswith("min(100%, ") for w in widest), "a column that needs more than there is"
    tables = re.findall(r'<div class="scroll">.*?</table></div>', source, flags=re.DOTALL)
    assert tables
    for table in tables:  # a narrow screen shows rows as blocks, and each cell beside its heading
        header = re.findall(r"<th[^>]*>([^<]*)</th>", table)
        rows = re.findall(r"<tr>(<td.*?)</tr>", table, flags=re.DOTALL)
        assert rows
        assert all(re.findall(r'<td data-label="([^"]*)"', row) == header for row in rows)


def test_a_long_name_is_wrapped_in_a_drawing():
    assert (
        wrapped("held-out pairs: longer-response baseline", 28)
        == "held-out pairs: longer-\nresponse baseline"
    )
    assert wrapped("x" * 30, 28) == "x" * 28 + "\nxx"
    assert wrapped("") == " "


HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" \u202e \x00\x1b $x_1$ \ud800 中文'


def test_hostile_text_stays_text(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5, brief=True, name=HOSTILE.replace("\ud800", ""))
    experiment = json.loads((run / "experiment.json").read_text())
    experiment["docstring"] = experiment["device"] = experiment["command"] = HOSTILE
    experiment["arxiv"] = [HOSTILE, 'javascript:alert(1)//"']
    experiment["config"] = {HOSTILE: {"function": HOSTILE, "value": HOSTILE}}
    experiment["versions"] = {HOSTILE: HOSTILE}
    (run / "experiment.json").write_text(json.dumps(experiment))
    metrics = {HOSTILE: {"mean": 0.5, "better": HOSTILE}}
    evaluation = {"stage": HOSTILE, "step": 0, "evaluator": HOSTILE, "metrics": metrics}
    (run / "evaluations.jsonl").write_text(
        "".join(json.dumps(evaluation | {"step": s}) + "\n" for s in (0, 1, 2))
    )
    sample = {"stage": HOSTILE, "step": 0, "evaluator": HOSTILE, "id": HOSTILE}
    sample |= {"prompt": HOSTILE, "response": HOSTILE, "score": 0.25, "note": HOSTILE}
    (run / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": HOSTILE, "step": 1, HOSTILE: 1.0}) + "\n")
    page = rendered(tmp_path, run)
    assert page.scripts == 1
    assert page.links == [link for link in page.links if link.startswith("#")]
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "\u202e" not in page.text
    assert "\x00" not in page.text
    assert "␀␛" in page.text


def test_markup_in_a_name_and_in_a_response_is_shown_as_written(tmp_path):
    runs = [write_run(tmp_path / n, name=f"<i>{n}</i>", num_steps=3, brief=True) for n in ("one", "two")]
    file = runs[0] / "samples.jsonl"
    file.write_text(file.read_text().replace("The answer is", "<script>alert(1)</script>{{ 7 * 7 }} &amp;"))
    source = write_report(runs, tmp_path / "report.html").read_text()
    assert "<i>" not in source
    assert source.count("&lt;i&gt;one&lt;/i&gt;") > 5
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }} &amp;amp;" in source
    assert source.count("<script>") == 1


@pytest.mark.parametrize("missing", ["metrics", "evaluations", "samples"])
def test_a_missing_file_is_named_and_the_rest_is_shown(tmp_path, missing):
    run = write_run(tmp_path / "run", num_steps=5, brief=True)
    (run / f"{missing}.jsonl").unlink()
    page = rendered(tmp_path, run)
    assert f"{missing}.jsonl is missing" in page.text
    note = {
        "metrics": "No training metrics were logged",
        "evaluations": "No evaluation was recorded",
        "samples": "No samples were recorded",
    }
    assert [words in page.text for words in note.values()] == [name == missing for name in note]


def test_a_run_that_has_only_begun_gives_a_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.json").write_text('{"name": "begun"}')
    page = rendered(tmp_path, run)
    assert "no configuration was recorded" in page.text
    assert page.text.count("is missing") == 3


def test_a_killed_run_is_shown_up_to_its_last_whole_line(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5, brief=True)
    file = run / "metrics.jsonl"
    file.write_text(file.read_text()[:-20])
    page = rendered(tmp_path, run)
    assert "metrics.jsonl ends in the middle of a line" in page.text
    assert "rewards/margins" in page.text


def test_non_finite_values_are_counted_and_drawn_around(tmp_path):
    run = write_run(tmp_path / "run", num_steps=60)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["stage"] == "dpo" and row["split"] == "train" and row["step"] >= 58:
            row |= {"loss": float("nan"), "grad_norm": float("inf")}
        if row["stage"] == "sft":
            row["rewards/margins"] = float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = rendered(tmp_path, run)
    assert "stage dpo, loss (train): 3 of 60 values are not finite, the first at step 58" in page.text
    assert "stage dpo, grad_norm (train): 3 of 60" in page.text
    assert not (tmp_path / "out" / "report" / "sft_rewards_margins.png").exists()


def test_evaluations_without_intervals_make_no_claim(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5, brief=True)
    rows = [
        {
            "stage": "dpo",
            "step": s,
            "evaluator": "e",
            "metrics": {"a": {"mean": m, "low": None, "high": float("nan")}},
        }
        for s, m in ((0, 0.5), (5, float("nan")))
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = rendered(tmp_path, run)
    assert "0.500 → –" in page.text
    assert "better" not in page.text


def test_long_and_blank_samples_say_what_was_cut(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5, brief=True)
    sample = {"stage": "dpo", "step": 0, "evaluator": "e", "id": "1", "score": None}
    sample |= {
        "prompt": "first turn " + 2000 * "p" + " last turn",
        "response": "begin " + 2000 * "r" + " end",
    }
    blank = sample | {"step": 5, "response": " \n"}
    empty = sample | {"step": 5, "id": "2", "response": ""}
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (sample, blank, empty)))
    page = rendered(tmp_path, run)
    assert "521 characters before this" in page.text
    assert "last turn" in page.text
    assert "first turn" not in page.text
    assert "510 more characters" in page.text
    assert "only white space, 2 characters" in page.text
    assert "empty" in page.text
    assert "not sampled" in page.text


def test_nothing_is_written_for_what_is_not_a_run(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5, brief=True)
    (tmp_path / "not").mkdir()
    (tmp_path / "not" / "notes.txt").write_text("")
    output = tmp_path / "out" / "report.html"
    with pytest.raises(ValueError, match=r"is not a run directory: it has no experiment\.json \(found notes"):
        write_report([run, tmp_path / "not"], output)
    with pytest.raises(ValueError, match="expected a run directory, got nothing: the path does not exist"):
        write_report([tmp_path / "absent"], output)
    with pytest.raises(ValueError, match="expected at least one run directory"):
        write_report([], output)
    with pytest.raises(ValueError, match="was given twice"):
        write_report([run, tmp_path / "run" / ".." / "run"], output)
    (run / "experiment.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"experiment\.json, line 1: not JSON"):
        write_report([run], output)
    assert not output.exists()
