"""A clock that a test moves by hand.

- `jumping`: the clock
- `on_asyncio`, `on_trio`: event loops that use the clock
"""
