"""A clock that a test moves by hand. For `testing`.

- `jumping`: the clock
- `on_asyncio`, `on_trio`: event loops that go by it
"""
