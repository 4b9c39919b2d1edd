"""The planted bugs fit the code. Otherwise `make property-mutants` would plant nothing."""

from __future__ import annotations

import ast
import re

import pytest

from property_tests.mutants.planted import Mutant, planted
from property_tests.mutants.trial import ROOT


def test_each_planted_bug_replaces_a_unique_text_of_its_file_by_other_code() -> None:
    for mutant in planted():
        text = (ROOT / mutant.file).read_text()
        changed = mutant.change(text)
        compile(changed, mutant.file, "exec")
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), mutant.name


def test_each_planted_bug_has_a_name_of_its_own_a_guarantee_and_a_sentence() -> None:
    assert len({mutant.name for mutant in planted()}) == len(planted()) >= 40
    assert [m.name for m in planted() if not re.fullmatch(r"G([1-9]|1[0-9]|2[0-4])|§4", m.breaks)] == []
    assert [m.name for m in planted() if not re.fullmatch(r".{10,120}\.", m.seen)] == []


def test_the_test_that_notices_a_planted_bug_is_there() -> None:
    for mutant in planted():
        if mutant.by is not None:
            path, _, name = mutant.by.partition("::")
            tree = ast.walk(ast.parse((ROOT / path).read_text()))
            assert name.partition("::")[0] in {getattr(node, "name", None) or _assigned(node) for node in tree}, mutant


def _assigned(node: ast.AST) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else None


def test_a_bug_whose_old_text_is_there_twice_is_refused() -> None:
    mutant = Mutant("twice", "some.py", old="a", new="b", breaks="G2", seen="Nothing.")
    with pytest.raises(ValueError, match="2 times, not once"):
        mutant.change("a a")


def test_a_bug_whose_old_text_begins_in_the_middle_of_an_indentation_is_refused() -> None:
    mutant = Mutant("shifted", "some.py", old="    a\n", new="    b\n", breaks="G2", seen="Nothing.")
    assert mutant.change("if c:\n    a\n") == "if c:\n    b\n"
    with pytest.raises(ValueError, match="indented further"):
        mutant.change("    if c:\n        a\n")
