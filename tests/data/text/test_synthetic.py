"""The arithmetic task: right answers are right, slips are wrong, parts are apart."""

import re

import numpy as np
import pytest

from jaxpref.data.text.synthetic import (
    arithmetic_demonstrations,
    arithmetic_lists,
    arithmetic_pairs,
    arithmetic_tokenizer,
    check_arithmetic,
    worked_answer,
)

TOKENIZER = arithmetic_tokenizer()


def texts(records):
    return [
        (
            TOKENIZER.decode(records.prompt(i)),
            *(TOKENIZER.decode(records.response(i, j)) for j in range(records.k)),
        )
        for i in range(len(records))
    ]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("47+38=", "15,8;85"),
        ("52-38=", "-6,1;14"),
        ("47*8=", "56,37;376"),
        ("95+7=", "12,10;102"),
        ("7-7=", "0;0"),
        ("100-1=", "-1,-1,0;99"),
        ("0+0=", "0;0"),
        ("99*9=", "81,89;891"),
    ],
)
def test_worked_by_hand(prompt, answer):
    assert worked_answer(prompt) == answer
    assert check_arithmetic(prompt, answer)
    for wrong in (answer.split(";")[1], answer + "0", " " + answer, ""):
        assert not check_arithmetic(prompt, wrong)


@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("operation", ["+", "-", "*"])
def test_pairs(operation, digits):
    pairs = arithmetic_pairs(num_examples=200, num_digits=digits, operations=operation)
    for prompt, chosen, rejected in texts(pairs):
        a, b = map(int, re.split(r"[-+*]", prompt.removesuffix("=")))
        expected = {"+": a + b, "-": a - b, "*": a * b}[operation]
        assert int(chosen.split(";")[1]) == expected  # Python does the sum, not the code under test
        assert check_arithmetic(prompt, chosen)
        assert not check_arithmetic(prompt, rejected)
        assert len(str(a)) == digits or operation == "-"
    assert pairs.response_lengths.max() <= 4 * digits + 4
    assert pairs.prompt_lengths.max() <= 2 * digits + 3


def test_slips_vary():
    rejected = [row[2] for row in texts(arithmetic_pairs(num_examples=300))]
    answers = [row[1] for row in texts(arithmetic_pairs(num_examples=300))]
    skipped = sum(r.count(",") < a.count(",") for r, a in zip(rejected, answers, strict=True))
    only_answer_wrong = sum(
        r.split(";")[0] == a.split(";")[0] and r.count(";") for r, a in zip(rejected, answers, strict=True)
    )
    assert 30 < skipped < 150
    assert 30 < only_answer_wrong < 200


@pytest.mark.parametrize(("digits", "operations", "k"), [(1, "+-*", 8), (2, "+-", 4), (3, "*", 2)])
def test_lists(digits, operations, k):
    lists = arithmetic_lists(num_examples=60, num_responses=k, num_digits=digits, operations=operations)
    scores = lists.columns["scores"]
    assert scores.shape == (60, k) == (len(lists), lists.k)
    for (prompt, right, *slips), row in zip(texts(lists), scores, strict=True):
        assert check_arithmetic(prompt, right)
        assert len({right, *slips}) == k
        assert row[0] == 1
        assert (row[1:] < 1).all(), "no slip ties with the right response"
        assert (np.diff(row) <= 0).all()
        wanted = re.split("[,;]", right)
        for slip, score in zip(slips, row[1:], strict=True):
            # Each part under its name: columns by number, and the answer.
            parts = dict(enumerate(slip.split(";")[0].split(","))) if ";" in slip else {}
            parts["answer"] = slip.split(";")[-1]
            names = [*range(len(wanted) - 1), "answer"]
            hits = [parts.get(name) == value for name, value in zip(names, wanted, strict=True)]
            assert score == pytest.approx(np.mean(hits))
    prompts = [
        row[0] for row in texts(arithmetic_pairs(num_examples=60, num_digits=digits, operations=operations))
    ]
    assert [row[0] for row in texts(lists)] == prompts
    assert scores.dtype == np.float32


def test_parts_are_disjoint_across_seeds_and_kinds():
    train = {row[0] for s in (0, 1) for row in texts(arithmetic_pairs(num_examples=2000, seed=s))}
    train |= {row[0] for row in texts(arithmetic_demonstrations(num_examples=2000))}
    held_out = {row[0] for row in texts(arithmetic_pairs(num_examples=400, part="held_out"))}
    assert not train & held_out
    assert len(held_out) == 400


def test_same_arguments_same_records():
    first, again = (texts(arithmetic_pairs(num_examples=50, seed=4)) for _ in range(2))
    assert first == again != texts(arithmetic_pairs(num_examples=50, seed=5))


def test_wrong_fraction():
    for fraction, low, high in ((0.0, 0, 0), (0.3, 220, 380), (1.0, 1000, 1000)):
        rows = texts(arithmetic_demonstrations(num_examples=1000, wrong_fraction=fraction))
        wrong = sum(not check_arithmetic(prompt, response) for prompt, response in rows)
        assert low <= wrong <= high


def test_repeats_only_when_the_problems_run_out():
    assert len(np.unique(arithmetic_pairs(num_examples=2000).group)) == 2000
    few = arithmetic_pairs(num_examples=500, num_digits=1, operations="+")
    assert 85 <= len(np.unique(few.group)) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "test"}, 'expected "train" or "held_out"'),
        ({"operations": "/"}, "expected operations out of"),
        ({"num_digits": 0}, "num_digits >= 1"),
        ({"held_out": 2.0}, "strictly between 0 and 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        arithmetic_pairs(**{"num_examples": 5, **arguments})
    with pytest.raises(ValueError, match="expected a prompt such as"):
        worked_answer("1/2=")
    with pytest.raises(ValueError, match="num_responses: expected 2 to 8, got 9"):
        arithmetic_lists(num_examples=5, num_responses=9)
    with pytest.raises(ValueError, match="wrong_fraction"):
        arithmetic_demonstrations(num_examples=5, wrong_fraction=2)
