"""Arithmetic with worked steps: a preference task whose responses a program can check.

    prompt    "47+38="       operands of `num_digits` digits; in a product the second operand is one digit
    response  "15,8;85"      the value of each column from the right with its carry, then the answer

The column values of `a + b` are `a_i + b_i + carry`; of `a - b` they are `a_i - b_i - borrow`, negative where
a borrow follows; of `a * b` they are `a_i * b + carry`. So "52-38=" is worked out as "-6,1;14" and "47*8="
as "56,37;376". There is one right response to each prompt, and a wrong one is a slip that people make.
"""

import functools
import re
from collections.abc import Callable

import numpy as np

from jaxpref.data.records import Example, Records, held_out_rows
from jaxpref.data.text.boundary import encode_example, stable_group
from jaxpref.data.text.tokenizers import Tokenizer, characters_tokenizer

__all__ = [
    "arithmetic_demonstrations",
    "arithmetic_lists",
    "arithmetic_pairs",
    "arithmetic_tokenizer",
    "check_arithmetic",
    "worked_answer",
]

_PROMPT = re.compile(r"(\d+)([-+*])(\d+)=")


def arithmetic_tokenizer() -> Tokenizer:
    """One id per character of the task; 19 ids."""
    return characters_tokenizer("0123456789+-*=,;")


def worked_answer(prompt: str) -> str:
    """The one right response to a prompt such as "47+38="; raises ValueError for anything else."""
    return _work(*_parse(prompt))


def check_arithmetic(prompt_text: str, response_text: str) -> bool:
    """True where every step and the answer are right; a missing step is wrong, whatever the answer."""
    return response_text == worked_answer(prompt_text)


def arithmetic_pairs(
    *,
    num_examples: int,
    num_digits: int = 2,
    operations: str = "+-",
    part: str = "train",
    held_out: float = 0.1,
    seed: int = 0,
) -> Records:
    """Pairs: the right worked answer (chosen) and a plausible slip (rejected).

    Prompts of `part="train"` and `part="held_out"` are disjoint, whatever `num_examples` and `seed` are: a
    hash of the prompt decides its part. They are drawn evenly over `operations` (of "+", "-", "*"), without
    repeats until new ones are hard to find. Responses have at most `4 * num_digits + 4` tokens, EOS included.
    """
    return _pairs(num_examples, num_digits, operations, part, held_out, seed)


@functools.lru_cache(maxsize=8)  # each stage and evaluator of an experiment asks for them
def _pairs(
    num_examples: int, num_digits: int, operations: str, part: str, held_out: float, seed: int
) -> Records:
    problems, generator = _problems(num_examples, num_digits, operations, part, held_out, seed)
    return _records(
        [(problem, [_work(*problem), _slip(problem, generator)]) for problem in problems],
        {"kind": "arithmetic_pairs", "part": part, "seed": seed, "num_digits": num_digits},
    )


def arithmetic_lists(
    *,
    num_examples: int,
    num_responses: int = 4,
    num_digits: int = 2,
    operations: str = "+-",
    part: str = "train",
    held_out: float = 0.1,
    seed: int = 0,
) -> Records:
    """Lists, best first: the right worked answer and `num_responses - 1` different slips (2 to 8 in all).

    The column `scores` [n, k] is the share of column values and answer that are right, compared place by
    place: 1 for the right response, less for slips, which may tie. The parts are those of `arithmetic_pairs`
    for the same `held_out`.
    """
    if not 2 <= num_responses <= 8:  # the easiest problems have few slips: at least 12
        raise ValueError(f"num_responses: expected 2 to 8, got {num_responses}")
    problems, generator = _problems(num_examples, num_digits, operations, part, held_out, seed)
    rows, scores = [], []
    for problem in problems:
        right = _work(*problem)
        share = {right: 1.0}
        while len(share) < num_responses:
            slip = _slip(problem, generator)
            share[slip] = _share_right(slip, right)
        best_first = sorted(share, key=lambda text: -share[text])
        rows.append((problem, best_first))
        scores.append([share[text] for text in best_first])
    source = {"kind": "arithmetic_lists", "part": part, "seed": seed, "num_digits": num_digits}
    return _records(rows, source).with_column("scores", np.array(scores, np.float32))


def arithmetic_demonstrations(
    *,
    num_examples: int,
    wrong_fraction: float = 0.3,
    num_digits: int = 2,
    operations: str = "+-",
    part: str = "train",
    held_out: float = 0.1,
    seed: int = 0,
) -> Records:
    """Responses to imitate (`k = 1`), a share `wrong_fraction` of which are slips.

    A model fitted to them puts about that probability on wrong answers, which preference learning can then
    reduce. The parts are those of `arithmetic_pairs` for the same `held_out`.
    """
    if not 0 <= wrong_fraction <= 1:
        raise ValueError(f"wrong_fraction: expected a share in [0, 1], got {wrong_fraction}")
    problems, generator = _problems(num_examples, num_digits, operations, part, held_out, seed)
    wrong = generator.random(num_examples) < wrong_fraction
    rows = [
        (problem, [_slip(problem, generator) if slipped else _work(*problem)])
        for problem, slipped in zip(problems, wrong, strict=True)
    ]
    metadata = {"kind": "arithmetic_demonstrations", "part": part, "seed": seed, "num_digits": num_digits}
    return _records(rows, metadata | {"wrong_fraction": wrong_fraction})


_Problem = tuple[int, str, int]


def _parse(prompt: str) -> _Problem:
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f'arithmetic: expected a prompt such as "47+38=", got {prompt!r}')
    return int(match[1]), match[2], int(match[3])


def _columns(a: int, operation: str, b: int, *, carrying: bool = True) -> list[int]:
    """Column values from the right; with `carrying=False` as someone who forgets every carry has them."""
    values, carry = [], 0
    while a or not values or (operation != "*" and b):
        a, digit = divmod(a, 10)
        if operation == "*":
            value = digit * b + carry
        else:
            b, other = divmod(b, 10)
            value = digit + (other if operation == "+" else -other) + carry
        values.append(value)
        carry = value // 10 if carrying else 0
    return values


def _total(columns: list[int], *, carrying: bool = True) -> int:
    if carrying:  # each value already holds the carry into it, so only the last one counts in full
        return sum(10**i * (v if i == len(columns) - 1 else v % 10) for i, v in enumerate(columns))
    return sum(10**i * (v % 10) for i, v in enumerate(columns))


def _spell(columns: list[int], answer: int) -> str:
    return ",".join(map(str, columns)) + f";{answer}"


def _work(a: int, operation: str, b: int) -> str:
    columns = _columns(a, operation, b)
    return _spell(columns, _total(columns))


def _slip(problem: _Problem, generator: np.random.Generator) -> str:
    """A wrong response: a forgotten carry, a wrong column, a wrong digit of the answer or a skipped step."""
    columns = _columns(*problem)
    answer, right = _total(columns), _work(*problem)
    kinds: list[Callable[[], str]] = [
        lambda: _forgotten_carry(problem),
        lambda: _wrong_column(columns, generator),
        lambda: _spell(columns, _wrong_digit(answer, generator)),
        lambda: _spell(columns[:-1], answer) if len(columns) > 1 else f"{answer}",
    ]
    start = int(generator.integers(len(kinds)))
    # Forgetting carries changes nothing where there are none; then the next kind of slip happens.
    tries = (kinds[(start + i) % len(kinds)]() for i in range(len(kinds)))
    return next(text for text in tries if text != right)


def _share_right(response: str, right: str) -> float:
    """Of the right response's column values and answer, how many `response` has in the same place."""
    steps, _, answer = response.rpartition(";")
    wanted_steps, _, wanted_answer = right.rpartition(";")
    wanted = wanted_steps.split(",")
    hits = sum(x == y for x, y in zip(steps.split(","), wanted, strict=False)) + (answer == wanted_answer)
    return hits / (len(wanted) + 1)


def _forgotten_carry(problem: _Problem) -> str:
    columns = _columns(*problem, carrying=False)
    return _spell(columns, _total(columns, carrying=False))


def _wrong_column(columns: list[int], generator: np.random.Generator) -> str:
    at = int(generator.integers(len(columns)))
    wrong = list(columns)
    wrong[at] += int(generator.choice([-1, 1]))
    return _spell(wrong, max(_total(wrong), 0))


def _wrong_digit(answer: int, generator: np.random.Generator) -> int:
    place = 10 ** int(generator.integers(len(str(answer))))
    digit = answer // place % 10
    return answer + place * (int((digit + generator.integers(1, 10)) % 10) - digit)


def _problems(
    num_examples: int, num_digits: int, operations: str, part: str, held_out: float, seed: int
) -> tuple[list[_Problem], np.random.Generator]:
    if part not in ("train", "held_out"):
        raise ValueError(f'part: expected "train" or "held_out", got {part!r}')
    if not operations or set(operations) - set("+-*") or num_digits < 1 or num_examples < 1:
        raise ValueError(
            f'arithmetic: expected operations out of "+-*", num_digits >= 1 and num_examples >= 1, got '
            f"{operations!r}, {num_digits}, {num_examples}"
        )
    generator = np.random.default_rng([seed, ("train", "held_out").index(part)])
    low, high = (10 ** (num_digits - 1) if num_digits > 1 else 0), 10**num_digits
    problems: list[_Problem] = []
    seen: set[_Problem] = set()
    repeats, exhausted = 0, False
    while len(problems) < num_examples:
        operation = operations[len(problems) % len(operations)]
        a, b = (int(x) for x in generator.integers(low, high, 2))
        if operation == "*":
            b = int(generator.integers(2, 10))
        elif operation == "-" and a < b:
            a, b = b, a  # answers stay non-negative
        problem = (a, operation, b)
        if _away(problem, held_out) != (part == "held_out"):
            continue
        if problem in seen and not exhausted:
            repeats += 1
            exhausted = repeats == 500  # in a row: next to none are new, so allow them from now on
            continue
        repeats = 0
        seen.add(problem)
        problems.append(problem)
    return problems, generator


@functools.lru_cache(maxsize=2**16)  # some 16,000 problems of two digits are drawn again and again
def _away(problem: _Problem, held_out: float) -> bool:
    return bool(held_out_rows(np.array([stable_group(_text(problem))]), held_out)[0])


def _text(problem: _Problem) -> str:
    return "{}{}{}=".format(*problem)


def _records(rows: list[tuple[_Problem, list[str]]], source: dict) -> Records:
    tokenizer = arithmetic_tokenizer()
    examples = [
        encode_example(tokenizer, _text(problem), responses, prompt_length=64, response_length=128)
        for problem, responses in rows
    ]
    metadata = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "pad_id": tokenizer.pad_id,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "source": source,
    }
    return Records.from_examples([e for e in examples if isinstance(e, Example)], metadata)
