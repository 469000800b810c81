"""How a container is started from its row: its documents become options, these a plan, and a shim takes it."""

import os
import stat

from pyrunc.drivers import registry
from pyrunc.drivers.exec.driver import Start
from pyrunc.engine import container_events, finish, host_config, namespaces, observing, throwaway
from pyrunc.engine.mounts_wanted import wanted
from pyrunc.errors import CommandNotFound, InvalidArgument, PyruncError, TimedOut
from pyrunc.runtime import shim
from pyrunc.store.files import check_private, make_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrunc.api import ContainerRecord
    from pyrunc.drivers.exec.driver import ExecDriver
    from pyrunc.engine.parts import Parts
    from pyrunc.engine.recipes import Fresh
    from pyrunc.runtime.compile import Rootfs
    from pyrunc.runtime.options import SandboxOptions

_private: "set[str]" = set()  # directories that were looked at


def state_dir(container_id: str) -> str:
    """Where the state of a container that starts now is."""
    return os.path.join(finish.state_root(), container_id)


def start(
    parts: "Parts", record: "ContainerRecord", *, client: int | None = None, again: bool = False,
    keep_running: bool = True,
) -> shim.ShimProcess:  # fmt: skip
    """Start a container that does not run, with its lock held; *again* is by its restart policy.

    *client* is attached from the first byte on. Without *keep_running* it ends with this process.
    Raises StartError, InvalidArgument, NotFound, Unsupported; then its row says why.
    """
    place = state_dir(record.id)
    parts.containers.starting(record.id, observing.boot(), place, again=again)
    return launch(parts, record._replace(state_dir=place), None, client, keep_running)


def launch(
    parts: "Parts", record: "ContainerRecord", fresh: "Fresh | None", client: int | None,
    keep_running: bool, *, until: float | None = None,
) -> shim.ShimProcess:  # fmt: skip
    """Start a container whose row says that it is being started; *fresh* if it has just been made.

    TimedOut is raised at *until* (monotonic seconds). That a fresh one was created is said here if it does not start;
    else by the caller, since by then its program runs and need not wait for it.
    """
    try:
        return _launched(parts, record, fresh, client, keep_running, until)
    except BaseException as exc:
        if fresh is not None:
            container_events.say(parts, record, "create")
        if isinstance(exc, TimedOut) or shim.running(record.state_dir) is not None:
            finish.end_cgroups(record)  # who was interrupted just after it began, or too late
        code = 128 if not isinstance(exc, PyruncError) else exc.exit_code
        finish.note_failure(parts, record, code, str(exc))
        raise


def _launched(
    parts: "Parts", record: "ContainerRecord", fresh: "Fresh | None", client: int | None,
    keep_running: bool, until: float | None,
) -> shim.ShimProcess:  # fmt: skip
    if record.argv[:1] == ("",):
        raise CommandNotFound('exec: "": executable file not found in $PATH')
    _make_place(record.state_dir)
    driver = registry.exec_driver(record.host_config.get("Runtime"))
    begin = Start(
        record.id, record.argv, _settings(parts, record, keep_running), client, until, None, None, {}
    )
    launcher = fresh.launcher() if fresh is not None and driver.takes_plans else None
    if launcher is not None:
        return _start(driver, begin._replace(plan=launcher))
    with namespaces.joined_by(parts, record) as joined:
        options = options_of(parts, record, joined)
        if not driver.takes_plans:
            root = root_of(parts, record) if fresh is None or fresh.rootfs is None else fresh.rootfs
            return _start(driver, begin._replace(rootfs=root, options=options))
        if fresh is None or fresh.rootfs is None:
            launcher = throwaway.launcher(root_of(parts, record), options)
        else:
            launcher = fresh.compiled(options)
        return _start(driver, begin._replace(plan=launcher))


def root_of(parts: "Parts", record: "ContainerRecord") -> "Rootfs":
    """What a container's root is made of."""
    if record.driver:
        return parts.snapshotter.rootfs(record.id)
    from pyrunc.engine import host

    return host.rootfs(parts.root)


def options_of(parts: "Parts", record: "ContainerRecord", joined: "Mapping[str, str]") -> "SandboxOptions":
    """The options that a container's documents mean, *joined* as in host_config.options_of. Raises InvalidArgument."""
    options = host_config.options_of(record.config, record.host_config, rest=record.options, joined=joined)
    for device in record.host_config.get("Devices") or ():
        _check_device(device["PathOnHost"])
    mounts = list(options.get("mounts", ()))
    if wanted(record.config, record.host_config):
        from pyrunc.engine import mount_specs

        mounts = [*mount_specs.resolve(parts, record.id, record.config, record.host_config), *mounts]
    if not record.driver:
        from pyrunc.engine import host as host_image

        mounts = [*host_image.mounts(parts.root), *mounts]
    if mounts:
        options["mounts"] = mounts
    return options


def _check_device(path: str) -> None:
    """Raises InvalidArgument in Docker's words for what is no device."""
    try:
        mode = os.stat(path).st_mode
        problem = "" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "not a device node"
    except OSError as exc:
        problem = str(exc.strerror).lower()
    if problem:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{path}": {problem}'
        )


def log_file(record: "ContainerRecord") -> shim.LogFile | None:
    """Where a container's shim writes its log. Raises InvalidArgument in Docker's words."""
    log = host_config.log_of(record.host_config)
    return None if log is None else shim.LogFile(record.log_path, *log)


def _start(driver: "ExecDriver", wanted: Start) -> shim.ShimProcess:
    return driver.start(wanted)


def _settings(parts: "Parts", record: "ContainerRecord", keep_running: bool) -> shim.ShimSettings:
    """What a container's shim does; its log's directory is made."""
    log = log_file(record)
    if log is not None:
        _make_log_directory(os.path.dirname(log.path))
    config = record.config
    rows, columns = record.host_config.get("ConsoleSize") or (0, 0)
    return shim.ShimSettings(
        record.state_dir, log, finish.exit_command(parts, record.id), environment(),
        terminal=bool(config.get("Tty")), rows=rows, columns=columns, stdin_open=bool(config.get("OpenStdin")),
        stdin_once=bool(config.get("StdinOnce")), keep_running=keep_running,
    )  # fmt: skip


def _make_place(path: str) -> None:
    directory = os.path.dirname(path)
    if directory not in _private:
        _make_private(directory)
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        _make_private(directory)
        os.mkdir(path, 0o700)
    except FileExistsError:
        finish.drop_state(path)  # of an end whose last step was not done
        os.mkdir(path, 0o700)


def _make_private(directory: str) -> None:
    """See that nobody else can put what he likes in the place of a state. Raises FailedPrecondition."""
    make_directory(directory, 0o711)
    check_private(directory)
    _private.add(directory)


def _make_log_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        make_directory(path)
    except FileExistsError:
        pass


def environment() -> tuple[str, ...]:
    """That of an exit command, "K=V"."""
    return tuple(f"{name}={os.environ[name]}" for name in ("PATH", "LANG", "TZ") if name in os.environ)
