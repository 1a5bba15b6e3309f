"""What `pip install '.[sandbox]'` brings: every module and every file that one of them reads."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repository.test_importing import _WALK, FOLDERS, REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: building leaves folders behind."""
    source, into = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "bench"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", into, source], check=True, capture_output=True, timeout=100)
    return next(Path(into).glob("*.whl"))


def test_a_wheel_holds_every_file_of_ours_and_no_test(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(path.relative_to(REPOSITORY))
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours - there == set()
    assert {"receiver/store.sql", "pipeline/reading/statement.html", "db/models/usage.py"} <= there
    assert [name for name in there if name.startswith("tests")] == []


def test_what_is_installed_works_by_itself(wheel, tmp_path):
    """Unpacked where a package would be, and called from a folder that knows nothing of it."""
    site, here = tmp_path / "site", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()

    def run(*arguments: str) -> str:
        # -S and a path of our own: the clone, which is installed here for development, is not to be found.
        libraries = next(path for path in sys.path if path.endswith("site-packages"))
        environment = {"PATH": "", "HOME": str(here), "PYTHONPATH": f"{site}:{libraries}"}
        answer = subprocess.run(
            [sys.executable, "-S", *arguments],
            env=environment,
            cwd=here,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    assert str(site) in run("-c", "import pipeline; print(pipeline.__path__[0])")
    for folder in FOLDERS:
        run("-c", _WALK, folder)
    assert run("-m", "ops.cli", "--version").endswith("(unknown)\n")
