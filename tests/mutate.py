"""`make mutate`: each rule is broken once, in a copy of the code, and its test must be red.

Prints a line for each: the number of the case, the test, red or not. Ends with 1 when one of them is green, or red for
another reason than what it asserts.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
#: Seconds for one test, with its servers.
LONGEST = 180


@dataclass(frozen=True)
class Mutation:
    """A patch and the test that must notice it."""

    test: str
    file: str
    right: str
    wrong: str

    @property
    def case(self) -> str:
        numbers = re.search(r"::test_(\d+)_", self.test)
        return numbers[1] if numbers else ""

    def apply(self, text: str) -> str:
        """The file's text with the rule broken. Raises ValueError where the patch fits no more."""
        if text.count(self.right) != 1:
            raise ValueError(f"{self.test}: what it breaks stands {text.count(self.right)} times in {self.file}")
        return text.replace(self.right, self.wrong)


def mutations() -> list[Mutation]:
    """All that the tests name by ``breaks``, by their cases."""
    found = []
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                name = f"{path.relative_to(REPOSITORY)}::{node.name}"
                found += [Mutation(name, *patch) for patch in map(_patch, node.decorator_list) if patch is not None]
    return sorted(found, key=lambda each: (int(each.case or 0), each.test))


def _patch(decorator: ast.expr) -> tuple[str, str, str] | None:
    """The file, what is right in it, and what is wrong in its place."""
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "breaks":
        return None
    file, right, wrong = (ast.literal_eval(each) for each in decorator.args)
    return file, right, wrong


def _run(copy: Path, mutation: Mutation) -> str:
    """What became of the test in the copy: red, green, or what else went wrong."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", mutation.test]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    try:
        ended = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer in time"
    if ended.returncode == 0:
        return "GREEN"
    failed = re.findall(r"^E +(?:AssertionError|assert |Failed: DID NOT RAISE)", ended.stdout, re.MULTILINE)
    return "red" if ended.returncode == 1 and failed else f"ended with {ended.returncode}:\n{ended.stdout[-2000:]}"


def _tried(chosen: list[Mutation]) -> Iterator[tuple[Mutation, str, float]]:
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".altiora", "__pycache__", ".*_cache")
        )
        for mutation in chosen:
            path, began = copy / mutation.file, time.monotonic()
            text = path.read_text()
            path.write_text(mutation.apply(text))
            try:
                verdict = _run(copy, mutation)
            finally:
                path.write_text(text)
            yield mutation, verdict, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="only these cases, as 69 70, or tests with this in their name")
    wanted = set(parser.parse_args().cases)
    chosen = [
        each
        for each in mutations()
        if not wanted or each.case in wanted or any(len(word) > 3 and word in each.test for word in wanted)
    ]
    wrong = 0
    for mutation, verdict, seconds in _tried(chosen):
        words = mutation.test.partition("::test_")[2].removeprefix(f"{mutation.case}_").replace("_", " ")
        sys.stdout.write(f"{mutation.case:>3}  {verdict.partition(chr(10))[0]:6} {seconds:4.0f} s  {words[:60]}\n")
        sys.stdout.flush()
        if verdict != "red":
            wrong += 1
            sys.stdout.write(f"{verdict}\n{mutation.file}: {mutation.right!r} -> {mutation.wrong!r}\n")
    sys.stdout.write(f"{len(chosen)} rules broken, {len(chosen) - wrong} red\n")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
