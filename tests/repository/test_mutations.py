"""The patches of `make mutate` fit the code of today, and break nothing but a rule."""

import ast

from tests.mutate import REPOSITORY, mutations


def test_each_patch_fits_and_still_is_a_program():
    found = mutations()
    assert len({each.case for each in found}) >= 28
    for each in found:
        broken = each.apply((REPOSITORY / each.file).read_text())
        if each.file.endswith(".py"):
            ast.parse(broken)
