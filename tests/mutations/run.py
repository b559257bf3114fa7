"""Small faults put into the library one at a time: does the test suite notice each? See README.md."""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Mutation(NamedTuple):
    """One row of a table; `package` is the table's name."""

    package: str
    name: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """`by`: the test that caught it, or the reason for any other status."""

    name: str
    package: str
    status: str
    by: str
    seconds: float


def read_tables(folder: pathlib.Path) -> list[Mutation]:
    """All rows of all tables. Raises ValueError for a row that says too little, too much, or nothing new."""
    fields = set(Mutation._fields) - {"package"}
    rows: dict[str, Mutation] = {}
    for path in sorted(folder.glob("*.toml")):
        for row in tomllib.loads(path.read_text("utf-8"))["mutation"]:
            if set(row) != fields:
                raise ValueError(f"{path.name}, {row.get('name')}: expected exactly {sorted(fields)}")
            if row["name"] in rows or row["before"] == row["after"] or not row["tests"]:
                raise ValueError(f"{path.name}, {row['name']}: a name given twice, no change, or no tests")
            rows[row["name"]] = Mutation(path.stem, **row | {"tests": tuple(row["tests"])})
    return list(rows.values())


def commands(tests: Iterable[str]) -> list[list[str]]:
    """Arguments of the calls of pytest: plain files share one, what has an option (-k) gets its own."""
    split = [shlex.split(one) for one in tests]
    plain = [one[0] for one in split if len(one) == 1]
    return ([plain] if plain else []) + [one for one in split if len(one) > 1]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def environment(tree: pathlib.Path) -> dict[str, str]:
    """Of processes in a worktree: its package first, and real data from where the main checkout has them."""
    main = pathlib.Path(git("worktree", "list", "--porcelain").splitlines()[0].removeprefix("worktree "))
    data = main.parent / "shared" / "data"
    return {"JAXPREF_DATA_ROOT": str(data)} | os.environ | {"PYTHONPATH": str(tree)}


class Bench:
    """Temporary worktrees of one commit, each lent to one job at a time, and the processes in them."""

    def __init__(self, python: str, timeout: float) -> None:
        self.python, self.timeout, self.stopped = python, timeout, False
        self.running: set[subprocess.Popen[str]] = set()
        self.free: queue.Queue[tuple[pathlib.Path, dict[str, str]]] = queue.Queue()  # worktree, environment

    @contextlib.contextmanager
    def opened(self, commit: str, jobs: int) -> Iterator[None]:
        """The worktrees exist inside and are gone outside, however it ends."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="mutations-")).resolve()
        trees = [folder / f"tree-{i}" for i in range(jobs)]
        try:
            for tree in trees:
                git("worktree", "add", "--detach", "--quiet", str(tree), commit)
                self.free.put((tree, environment(tree)))
            command = [self.python, "-c", "import jaxpref; print(jaxpref.__file__)"]
            done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True)
            if not done.stdout.startswith(str(tree)):
                raise RuntimeError(f"jaxpref is not imported from {tree}: {done.stdout}{done.stderr}")
            yield
        finally:
            for tree in trees:
                with contextlib.suppress(subprocess.CalledProcessError):  # not made yet
                    git("worktree", "remove", "--force", str(tree))
            shutil.rmtree(folder, ignore_errors=True)
            git("worktree", "prune")

    def pytest(self, tree: pathlib.Path, env: dict, arguments: list[str], limit: float) -> tuple[int, str]:
        # Rows are what runs side by side; with processes of its own, -x ends pytest with another status.
        alone = ["-n", "0"] if "pytest-xdist" in (tree / "pyproject.toml").read_text("utf-8") else []
        command = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *alone, *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        process = subprocess.Popen(command, cwd=tree, env=env, start_new_session=True, **streams)
        self.running.add(process)
        try:
            output, _ = process.communicate(timeout=0 if self.stopped else limit)
        finally:
            end(process)
            self.running.discard(process)
        return process.returncode, output

    def judged(self, tree: pathlib.Path, env: dict, tests: Iterable[str]) -> tuple[str, str]:
        """(status, by) of the tests on the worktree as it is."""
        until = time.monotonic() + self.timeout
        for arguments in commands(tests):
            try:
                code, output = self.pytest(tree, env, arguments, max(until - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                return "caught", f"timeout of {self.timeout:g} s"
            if code == 1:
                failed = FIRST_FAILURE.search(output)
                return "caught", failed[1] if failed else "a failure without a name"
            if code:
                return "broken", f"pytest exits with {code}: {' | '.join(output.strip().splitlines()[-3:])}"
        return "survived", "no test failed"

    def tried(self, mutation: Mutation, *, apply: bool) -> Result:
        """One row's tests, with its fault (`apply`) or without."""
        tree, env = self.free.get()
        begin, path = time.monotonic(), tree / mutation.file
        try:
            text = path.read_text("utf-8") if path.is_file() else ""
            status, by = "does not apply", f"`before` occurs {text.count(mutation.before)} times in the file"
            if text.count(mutation.before) == 1:
                changed = text.replace(mutation.before, mutation.after) if apply else text
                path.write_text(changed, "utf-8")
                forget_bytecode(path)
                status, by = self.judged(tree, env, mutation.tests)
                subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", "--", "."], check=True)
                forget_bytecode(path)
        finally:
            self.free.put((tree, env))
        return Result(mutation.name, mutation.package, status, by, round(time.monotonic() - begin, 1))


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process that still runs, with all that it started: its session is its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def forget_bytecode(path: pathlib.Path) -> None:
    """Python takes a source of the same size and the same second for the one that it compiled."""
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def run_all(bench: Bench, mutations: list[Mutation], jobs: int, *, apply: bool) -> list[Result]:
    """Results in the order in which they come, each printed at once; of those that came, if interrupted."""
    results, begin, total = [], time.monotonic(), len(mutations)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    futures = [pool.submit(bench.tried, mutation, apply=apply) for mutation in mutations]
    try:
        for future in concurrent.futures.as_completed(futures):
            results.append(r := future.result())
            left = (time.monotonic() - begin) / 60 / len(results) * (total - len(results))
            head = f"[{len(results)}/{total}, {left:.0f} min left]"
            print(f"{head} {r.status:8}  {r.seconds:6.1f} s  {r.package}: {r.name}  ({r.by})", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C does not stop the clearing up
            signal.signal(number, signal.SIG_IGN)
        bench.stopped = True
        for process in list(bench.running):
            end(process)
        pool.shutdown(cancel_futures=True)
    return results


def summary(results: list[Result], good: str) -> None:
    """A line for each package, and one for each row whose status is not the `good` one."""
    for package in sorted({r.package for r in results}):
        mine = [r for r in results if r.package == package]
        said = ", ".join(f"{n} {s}" for s, n in collections.Counter(r.status for r in mine).items())
        print(f"{package}: {said}, {sum(r.seconds for r in mine):.0f} s")
        print("".join(f"  {r.status}: {r.name} ({r.by})\n" for r in mine if r.status != good), end="")


def compare(first: pathlib.Path, second: pathlib.Path) -> int:
    """Prints the rows whose status differs between two files of results; returns how many."""
    one, two = ({r["name"]: r["status"] for r in json.loads(p.read_text("utf-8"))} for p in (first, second))
    names = [name for name in sorted(one | two) if one.get(name) != two.get(name)]
    print("".join(f"{n}: {one.get(n, 'absent')} -> {two.get(n, 'absent')}\n" for n in names), end="")
    print(f"{len(names)} of {len(one | two)} differ")
    return len(names)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Exit status 0: all chosen rows are caught.")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="mutations to try (default: all)")
    add("--package", metavar="P", help="only the rows of tests/mutations/P.toml")
    add("--jobs", type=int, default=1, metavar="N", help="how many to try at a time (1)")
    add("--at", default="HEAD", metavar="REF", help="commit whose library and tests are tried (HEAD)")
    add("--out", type=pathlib.Path, metavar="FILE.json", help="write the results as JSON")
    add("--python", default=sys.executable, help="interpreter that has what the tests need (this one)")
    add(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="seconds for a row; longer counts as caught (600)",
    )
    add("--clean", action="store_true", help="run each distinct set of tests without a fault, nothing else")
    add("--compare", nargs=2, type=pathlib.Path, metavar=("A.json", "B.json"), help="only print what differs")
    options = parser.parse_args()
    rows = [row for row in read_tables(HERE) if options.package in (None, row.package)]
    unknown = set(options.names) - {row.name for row in rows}
    if unknown or not rows:
        parser.error(f"no mutation {sorted(unknown) or options.package}; the names are in {HERE}/*.toml")
    if options.jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {options.jobs}")
    options.rows = [row for row in rows if not options.names or row.name in options.names]
    return options


def main() -> int:
    options = parse()
    if options.compare:
        return int(compare(*options.compare) > 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # worktrees go away then, too
    rows, bench = options.rows, Bench(options.python, options.timeout)
    if options.clean:
        rows = list({frozenset(row.tests): row for row in rows}.values())
    with bench.opened(git("rev-parse", "--verify", options.at + "^{commit}"), options.jobs):
        results = run_all(bench, rows, options.jobs, apply=not options.clean)
    if options.out:
        options.out.write_text(json.dumps([r._asdict() for r in results], indent=1) + "\n", "utf-8")
    good = "survived" if options.clean else "caught"
    summary(results, good)
    return int(len(results) < len(rows) or any(r.status != good for r in results))


if __name__ == "__main__":
    sys.exit(main())
