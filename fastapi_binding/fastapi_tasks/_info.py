"""`scope.info`: what observers can read of a request."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope


def describe(scope: Scope | None, info: dict[str, Any] | None) -> dict[str, Any]:
    """Return `info`, or a new dict, with what an ASGI scope of the request tells.

    :param scope: has the route as soon as there is one; None: the request is over
    """
    scope = scope or {}
    if info is None:
        info = {"method": scope.get("method", "WEBSOCKET"), "path": scope.get("path"), "route": None}
    if (template := _template_of(scope)) is not None:
        info["route"] = template
    return info


def _template_of(scope: Scope) -> str | None:
    """Return the path template, `/users/{id}`, with the prefixes of routers and the paths of mounted apps."""
    route = scope.get("route")
    # FastAPI (0.165) keeps the route of an included router as it is. Its path with all prefixes is the `path` of this
    # object. Earlier versions copy the route.
    context = scope.get("fastapi", {}).get("effective_route_context")
    known = context if route is not None and getattr(context, "original_route", None) is route else route
    path: str | None = getattr(known, "path", None)
    if path is None:
        return None
    root: str = scope.get("root_path", "")
    mounts = root.removeprefix(scope.get("app_root_path", root))  # with the values of their parameters
    for name, value in scope.get("path_params", {}).items() if mounts else ():
        if f"{{{name}}}" not in path and f"{{{name}:" not in path:
            mounts = f"{mounts}/".replace(f"/{value}/", f"/{{{name}}}/", 1)[:-1]
    return mounts + path
