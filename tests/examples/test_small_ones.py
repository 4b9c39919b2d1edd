"""Short examples, which are checked by their output."""

from __future__ import annotations

from tests.examples.programs import EXAMPLES, example, started


def test_the_shop_sells_and_books_once_under_every_schedule() -> None:
    assert example("stock.py")[0].startswith("sold once, and booked")


def test_quickstart_serves_until_it_is_interrupted() -> None:
    with started(str(EXAMPLES / "quickstart.py"), "0") as program:
        program.until("Uvicorn running on")
        program.interrupt()
        assert any("lifespan: database closed" in line for line in program.end())
