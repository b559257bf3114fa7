"""The command line as a user meets it."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from launch import TINY, here, run

from jaxpref import cli, config
from jaxpref.commands.training import _labels
from jaxpref.data.text.synthetic import arithmetic_tokenizer
from jaxpref.types import Prompts

COMMANDS = [
    "train",
    "sweep",
    "tournament",
    "prepare",
    "evaluate",
    "sample",
    "chat",
    "export",
    "convert",
    "check-model",
    "describe",
    "report",
    "tokenizer",
    "bench",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "nothing.py"], "no experiment file nothing.py"),
        (["train", TINY, "stepz=1"], "unknown override 'stepz'"),
        (["prepare", TINY], "records=DIR"),
        (["report", "nothing"], "nothing"),
        (["train", TINY, "records=nothing"], "jaxpref prepare"),
        (["train", TINY, "workdir=s3://bucket/run"], "mount it and give the mounted path"),
        (["train", TINY, "workdir=nothing://run"], "no file system is known"),
    ],
)
def test_mistakes_are_one_line_and_status_two(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxpref: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_describe_flat_lists_what_overrides_take(capsys):
    assert cli.main(["describe", TINY, "--flat"]) == 0
    assert "stages.dpo.algorithm.loss.beta=0.1\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    output = here("train", TINY, "steps=4", f"workdir={workdir}")
    assert f"report: {workdir}/report.html" in output
    return workdir


def test_report_names_what_was_used(trained):
    page = (trained / "report.html").read_text()
    assert "arxiv.org/abs/2305.18290" in page
    assert "reward accuracy" in page
    assert list((trained / "report").glob("*.png"))
    recorded = json.loads((trained / "experiment.json").read_text())
    assert recorded["docstring"].startswith("A two-stage experiment")
    assert recorded["config"]["stages"][1]["algorithm"]["loss"]["beta"] == 0.1


def test_evaluate_and_sample_a_run(trained):
    output = run("evaluate", TINY, "steps=4", f"workdir={trained}")
    assert "reward accuracy" in output
    assert "held out  rewards/accuracies" in output
    logged = (trained / "metrics.jsonl").read_text().splitlines()
    expected = next(
        r for r in map(json.loads, reversed(logged)) if r["split"] == "eval" and r["stage"] == "dpo"
    )
    assert f"{expected['loss']:.5g}" in output, "the same figure as at the end of training"
    with mock.patch("jaxpref.commands.speaking.Prompts", wraps=Prompts) as answered:
        output = here(
            "sample", TINY, "steps=4", f"workdir={trained}", "--prompt", "12+34=", "--num-samples", "2",
            "--temperature", "1", "--max-tokens", "5",
        )  # fmt: skip
    assert output.count("12+34=") == 2
    assert "other than when it was trained" not in output
    output = here("sample", TINY, "steps=4", "learning_rate=0.5", f"workdir={trained}", "--prompt", "1+1=")
    assert (
        "other than when it was trained: stages.dpo.algorithm.optimizer.schedule.value: 0.01 -> 0.5" in output
    )
    tokens, mask = (np.asarray(x)[0] for x in answered.call_args.args)
    tokenizer = arithmetic_tokenizer()
    assert tokens[mask].tolist() == [tokenizer.bos_id, *tokenizer.encode("12+34=")], "as in the records"


@pytest.mark.exhaustive
def test_prepared_records_with_a_reference_column_train_to_the_same_params(trained, tmp_path):
    records = tmp_path / "records"
    reads = "stages.dpo.algorithm.reference=batch"
    # In a process of its own: what it writes is found by another one.
    run("prepare", TINY, "steps=4", f"records={records}", "--reference", f"workdir={trained}", reads)
    common = ["train", TINY, "steps=4", "--no-report", f"records={records}"]
    here(*common, f"workdir={tmp_path / 'frozen'}")
    here(*common, f"workdir={tmp_path / 'column'}", reads)

    def losses(workdir):
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return [r["loss"] for r in rows if r["split"] == "train"]

    assert losses(tmp_path / "frozen") == losses(trained)
    assert losses(tmp_path / "column") == pytest.approx(losses(trained), abs=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_sweep_trains_all_and_compares(tmp_path):
    output = here("sweep", TINY + ":sweep", f"workdir={tmp_path}")
    assert "sweep 2/2" in output
    assert len(list(tmp_path.glob("*/experiment.json"))) == 2
    assert (tmp_path / "report.html").is_file()


def test_folders_of_a_sweep_say_what_differs_and_no_more():
    """Once this was `0-seed-0_beta-0.3_function-jaxpref.losses.pairwise.dpo_tau-None`."""
    built = [
        dataclasses.replace(config.load(TINY, overrides), seed=seed)
        for seed in (0, 1)
        for overrides in (["learning_rate=0.1"], ["learning_rate=0.2"])
    ]
    assert _labels(built) == [f"value={rate}_seed={seed}" for seed in (0, 1) for rate in (0.1, 0.2)]
    named = [dataclasses.replace(e, name=f"run {i}") for i, e in enumerate(built)]
    assert _labels(named) == ["run-0", "run-1", "run-2", "run-3"]


def test_tokenizer_command_trains_a_model(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the quick brown fox number {i} jumps over the lazy dog\n" for i in range(300)))
    output = here("tokenizer", str(text), "--out", str(tmp_path / "my.model"), "--vocab-size", "330")
    assert "my.model" in output
    assert (tmp_path / "my.model").stat().st_size > 1000


def test_bench_checkpoint_says_what_a_save_costs(tmp_path):
    sizes = ["--megabytes", "1", "--step-seconds", "0.001", "--steps", "2", "--rounds", "1", "--every", "10"]
    output = here("bench", "checkpoint", *sizes, "--out", str(tmp_path / "bench.json"))
    assert "A state of 1 MB, saved every 10 steps" in output
    for v in json.loads((tmp_path / "bench.json").read_text())["variants"].values():
        assert v["share"] == pytest.approx(v["save_seconds"] / (10 * v["step_seconds"]))
        assert v["blocked_seconds"] > 0


@pytest.mark.exhaustive
def test_bench_prints_tokens_per_second(tmp_path):
    output = run("bench", "dpo-step", "--pairs", "1", "--rounds", "1", "--out", str(tmp_path / "bench.json"))
    assert "tokens/s" in output
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["variants"]["precomputed reference"]["tokens_per_second"] > 0


@pytest.mark.exhaustive
def test_bench_decode_compares_with_the_floors(tmp_path):
    sizes = ["--batch", "4", "--tokens", "3", "--embed", "64", "--vocab", "64", "--rounds", "1"]
    out = str(tmp_path / "decode.json")
    output = here("bench", "decode", *sizes, "--only", "mixture of two", "--out", out)
    assert "matmul floor" in output
    figures = json.loads((tmp_path / "decode.json").read_text())
    (figure,) = figures["variants"].values()
    assert figure["recompilations"] == 0
    # Two members, four responses, by hand: 2 x (weights + 2 x 4 layers x 64 wide x (3 + 2) tokens x 4) x 4 B.
    moved = 2 * 4 * (figures["parameters"] + 4 * 2 * 4 * 64 * 5)
    assert figure["bandwidth_floor_seconds"] * figures["bytes_per_second"] == pytest.approx(moved)


@pytest.mark.exhaustive  # what they measure is tested in tests/benchmarks
@pytest.mark.slow
def test_bench_logprobs_and_tune_print_their_tables(tmp_path):
    sizes = ["--rows", "16", "--embed", "8", "--vocab", "40", "--rounds", "1"]
    out = str(tmp_path / "logprobs.json")
    output = run("bench", "logprobs", *sizes, "--only", "naive", "--allocator", "default", "--out", out)
    assert "value and gradients" in output
    figures = json.loads((tmp_path / "logprobs.json").read_text())
    assert figures["variants"]["naive"]["train"]["default"]["cpu_seconds_min"] > 0
    assert figures["optax"]
    output = run("bench", "tune", "--shapes", "70x8x520", "--rounds", "1", "--dtype", "bfloat16")
    assert '"cpu": Blocks(512, 64, "measured, bfloat16: ' in output


@pytest.mark.exhaustive
def test_a_smoke_run_begins_anew(tmp_path, monkeypatch):
    """In its own folder: what was changed in the meantime would else be skipped. A folder that was given is
    kept."""
    monkeypatch.chdir(tmp_path)
    outputs = [here("train", TINY, "evaluators=False", "--smoke", "--no-report") for _ in range(2)]
    assert not any("resumed" in output or "done at step" in output for output in outputs)
    assert (tmp_path / "runs" / "tiny-smoke" / "metrics.jsonl").is_file()
    here("sweep", f"{TINY}:sweep", "--smoke")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny-smoke", "tiny-sweep-smoke"]
