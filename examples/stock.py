"""Tests of tasks in every order, and with a shutdown at every moment: `python examples/stock.py`, or pytest on it."""

from __future__ import annotations

import anyio

from taskphase import TaskHost
from taskphase.testing import explore, explore_shutdown


class Shop:
    """Sells the last item once, and never forgets what has been paid."""

    def __init__(self) -> None:
        self.stock = 1
        self.paid: list[str] = []
        self.booked: list[str] = []
        self._lock = anyio.Lock()

    async def buy(self, customer: str) -> bool:
        """Return whether an item was left."""
        async with self._lock:  # without it two customers get the last item
            if not self.stock:
                return False
            await anyio.sleep(0.1)  # waits for the database; in these tests no real time passes
            self.stock -= 1
        self.paid.append(customer)
        return True

    async def book(self, customer: str) -> None:
        """Write down a payment."""
        await anyio.sleep(0.1)
        self.booked.append(customer)


@explore(schedules=100)
async def test_the_last_item_is_sold_once() -> None:
    shop = Shop()
    async with TaskHost(drain_timeout=5) as host:
        buyers = [host.schedule(shop.buy, name) for name in ("Ada", "Grace")]
    assert sorted(buyer.return_value for buyer in buyers) == [False, True]
    assert shop.stock == 0


@explore_shutdown()
async def test_what_is_paid_is_booked_whenever_the_shop_closes(shutdown: anyio.CancelScope) -> None:
    shop = Shop()
    with shutdown:
        async with TaskHost() as host:

            async def sell() -> None:
                if await shop.buy("Ada"):
                    # With `shield=False` a payment is not booked if the shop closes first.
                    host.task(shield=True).schedule(shop.book, "Ada")

            await host.task(shield=True).schedule(sell).wait()
    assert shop.booked == shop.paid


if __name__ == "__main__":
    test_the_last_item_is_sold_once()
    test_what_is_paid_is_booked_whenever_the_shop_closes()
    print("sold once, and booked, whoever was first and whenever the shop closed")
