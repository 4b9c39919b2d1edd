"""The figures about the code can be taken, and count as they say."""

from __future__ import annotations

from tests.repo.measures import ROOT, changes, code_lines, private_accesses, production, rows, walks

SOURCE = '''"""A docstring
of two lines."""

# A comment.
def f(self, other):
    """Another docstring."""
    text = """
    a string"""  # three lines of code
    return self._mine, other._theirs, other.__class__, self.job._runner
'''


def test_code_lines_are_neither_blanks_nor_comments_nor_docstrings() -> None:
    assert code_lines(SOURCE) == 4


def test_private_accesses_to_self_do_not_count() -> None:
    assert private_accesses(SOURCE) == 2


def test_a_change_of_module_is_between_two_calls_in_a_row() -> None:
    assert changes(["a", "a", "b", "a"]) == 2
    assert changes([]) == 0


def test_the_walks_go_from_the_call_of_schedule_to_the_first_step() -> None:
    found = walks(ROOT)

    assert list(found) == ["immediate", "after_response", "exception to on_error"]
    assert found["immediate"][0] == "_definition.py"
    assert all("_drive/attempt.py" in found[walk] for walk in ("immediate", "after_response"))
    assert "_drive/failing.py" in found["exception to on_error"]


def test_the_measures_of_this_tree_leave_the_tools_for_tests_out() -> None:
    paths = production(ROOT, "core/taskphase")

    assert ROOT / "core" / "taskphase" / "_host.py" in paths
    assert not [path for path in paths if "testing" in path.parts]
    assert len(list(rows(ROOT))) == 8
