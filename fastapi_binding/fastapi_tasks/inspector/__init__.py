"""A page about the tasks of an app: what runs, what has failed, and the waterfall of each request.

history = inspector.History()
add_tasks(app, observers=[history])
app.include_router(inspector.router(history, prefix="/_tasks", dependencies=[Depends(admin)]))
"""

from ._history import History
from ._router import router

__all__ = ["History", "router"]

# Tracebacks must show names that a user can import.
for _name in __all__:
    globals()[_name].__module__ = __name__
