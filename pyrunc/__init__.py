"""pyrunc: containers from Python, from a shell, and for other engines.

Everything public is here and is imported when it is first used.
"""

TYPE_CHECKING = False  # importing typing would cost 9 ms; type checkers know the name
if TYPE_CHECKING:
    from typing import Any

    from pyrunc import errors
    from pyrunc.api import ContainerRecord, ContainerResult
    from pyrunc.engine.async_attachment import AsyncAttachment
    from pyrunc.engine.async_container import AsyncContainer
    from pyrunc.engine.async_engine import AsyncEngine
    from pyrunc.engine.attachment import Attachment
    from pyrunc.engine.container import Container
    from pyrunc.engine.engine import Engine
    from pyrunc.engine.events import Event
    from pyrunc.engine.logs import LogEntry
    from pyrunc.runtime.async_sandbox import AsyncExecProcess, AsyncSandbox, AsyncSandboxProcess
    from pyrunc.runtime.sandbox import ExecProcess, IdMap, Mount, RunResult, Sandbox, SandboxProcess

__all__ = [
    "AsyncAttachment",
    "AsyncContainer",
    "AsyncEngine",
    "AsyncExecProcess",
    "AsyncSandbox",
    "AsyncSandboxProcess",
    "Attachment",
    "Container",
    "ContainerRecord",
    "ContainerResult",
    "Engine",
    "Event",
    "ExecProcess",
    "IdMap",
    "LogEntry",
    "Mount",
    "RunResult",
    "Sandbox",
    "SandboxProcess",
    "errors",
]

_HOMES = {
    "AsyncAttachment": "pyrunc.engine.async_attachment",
    "AsyncContainer": "pyrunc.engine.async_container",
    "AsyncEngine": "pyrunc.engine.async_engine",
    "AsyncExecProcess": "pyrunc.runtime.async_sandbox",
    "AsyncSandbox": "pyrunc.runtime.async_sandbox",
    "AsyncSandboxProcess": "pyrunc.runtime.async_sandbox",
    "Attachment": "pyrunc.engine.attachment",
    "Container": "pyrunc.engine.container",
    "ContainerRecord": "pyrunc.api",
    "ContainerResult": "pyrunc.api",
    "Engine": "pyrunc.engine.engine",
    "Event": "pyrunc.engine.events",
    "ExecProcess": "pyrunc.runtime.sandbox",
    "IdMap": "pyrunc.runtime.sandbox",
    "LogEntry": "pyrunc.engine.logs",
    "Mount": "pyrunc.runtime.sandbox",
    "RunResult": "pyrunc.runtime.sandbox",
    "Sandbox": "pyrunc.runtime.sandbox",
    "SandboxProcess": "pyrunc.runtime.sandbox",
    "errors": "pyrunc.errors",
}


def __getattr__(name: str) -> "Any":
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pyrunc' has no attribute {name!r}")
    # The function behind the statement: importlib itself would be imported for its own.
    module = __import__(home, fromlist=[name])
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
