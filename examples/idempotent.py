"""A charge that is made once, although its first attempt timed out after it had been made.

    python examples/idempotent.py

The payment provider books the charge at once, and answers late. After a timeout the charge may be booked, or not. So
the second attempt sends the same key, and the provider answers with the first charge. Then the same without a key: two
charges.
"""

import logging
import sys
from dataclasses import dataclass, field
from uuid import uuid4

import anyio

from taskphase import TaskHost, retry


@dataclass
class Provider:
    """A payment provider whose first answer takes too long."""

    charges: list[str] = field(default_factory=list[str])
    requests: int = 0
    _by_key: dict[str, int] = field(default_factory=dict[str, int])

    async def charge(self, order: str, key: str | None = None) -> int:
        """Charge for an order, and return the number of the charge: for one key, always the same charge."""
        self.requests += 1
        number = self._by_key.get(key) if key else None
        if number is None:
            self.charges.append(order)
            number = len(self.charges)
            if key:
                self._by_key[key] = number
        if self.requests == 1:
            await anyio.sleep(60)  # the charge is booked, and no answer comes
        return number


again = retry(attempts=3, on=(ConnectionError, TimeoutError), backoff=0.05)


async def pay(order: str, *, with_key: bool) -> Provider:
    """Charge for one order in a task, with further attempts if needed."""
    provider = Provider()
    # Made outside of the task, so that each attempt sends the same key. An app stores the key with the order.
    key = str(uuid4()) if with_key else None
    async with TaskHost(drain_timeout=5) as host:
        payment = host.task(name=f"charge for {order}", timeout=0.1, retry=again)
        task = payment.schedule(provider.charge, order, key)
        number = await task
    print(f"attempts: {task.attempt}, charges: {len(provider.charges)}, the last answer: charge {number}")
    return provider


async def main() -> None:
    print("with an idempotency key:")
    once = await pay("order 7", with_key=True)
    print("without one:")
    twice = await pay("order 8", with_key=False)
    if (len(once.charges), len(twice.charges)) != (1, 2):
        sys.exit("that was not what was promised")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="  log: %(message)s", stream=sys.stdout)
    anyio.run(main)
