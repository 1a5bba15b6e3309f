"""Importing does nothing: no setting is read, no folder is changed, nothing is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("accounts", "api", "db", "ops", "pipeline", "receiver", "sandbox", "schedules", "tasks")

#: Imports every module of a folder; what reads a setting finds none.
_WALK = """
import importlib, os, pkgutil, sys
before = dict(os.environ), os.getcwd()
package = importlib.import_module(sys.argv[1])
names = [sys.argv[1], *(m.name for m in pkgutil.walk_packages(package.__path__, sys.argv[1] + "."))]
for name in names:
    if not name.startswith("db.migrations"):  # Alembic runs them
        importlib.import_module(name)
assert (dict(os.environ), os.getcwd()) == before
print(len(names))
"""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_imported_without_any_setting_from_anywhere(folder, tmp_path):
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WALK, folder],
        env={"PATH": "", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    there = [path for path in (REPOSITORY / folder).rglob("*.py") if "migrations" not in path.parts]
    assert int(answer.stdout) >= len(there)


def test_no_code_changes_its_folder_or_its_environment():
    """Children are given theirs; whoever reads a setting finds what the process was started with."""
    changing = [
        f"{path.relative_to(REPOSITORY)}: {word}"
        for folder in (*FOLDERS, "bench")
        for path in (REPOSITORY / folder).rglob("*.py")
        for word in ("os.chdir", "os.environ[", "os.environ.update", "os.putenv", "load_dotenv")
        if word in path.read_text()
    ]
    assert changing == []
