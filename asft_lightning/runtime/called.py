"""What a class of one's own lacks to be called as a protocol is, e.g. to be a judge; told where a config names it."""

import inspect
import sys
from typing import Any, Protocol


def what_is_missing(path: str, protocol: str) -> str:
    """Why a class or function does not fit a protocol of this package that is a call.

    Args:
        path: Of the class or function, whose module is imported; blank where it is not known.
        protocol: The protocol's name.
    """
    known = {kind.__name__: kind for kind in Protocol.__subclasses__()}
    wanted = _names(known[protocol].__call__) if protocol in known else "…"
    module, _, name = path.rpartition(".")
    given = getattr(sys.modules.get(module), name, None)
    told = f"{path or 'it'} is no {protocol}: that is called with {wanted}"
    if inspect.isclass(given) and "__call__" not in dir(given):
        return f"{told}, and it has no __call__"
    return told if given is None else f"{told}, and it takes {_names(given.__call__ if inspect.isclass(given) else given)}"


def _names(call: Any) -> str:
    names = [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in inspect.signature(call).parameters.values()
    ]
    return f"({', '.join(name for name in names if name != 'self')})"
