"""A Python that has imported torch already: each of its processes is a copy of one that waits.

A run of pytest in a process of its own, or on two workers of pytest-xdist, costs seconds of
imports. `warm_python` gives an executable that takes a Python's arguments and costs none: it sends
them, with its files, folder and environment, to a server, which forks. `make full` uses Python
itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

IMPORTED = (
    "torch",
    "torch._dynamo",  # by some of the networks
    "transformer_lens",
    "scipy.stats",
    "rich.progress",
    "rich.tree",
    "hypothesis",
)

STARTS: dict[str, list[str]] = {
    "python": [],
    "pytest": ["-c", "import sys, pytest; del sys.path[0]; sys.exit(pytest.console_main())"],
}
CLIENT = """#!{real} -IS
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
arguments = [{python!r}, *{start!r}, *sys.argv[1:]]
request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile()
process = int(answers.readline())
for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextlib.contextmanager
def warm_python() -> Iterator[str]:
    """The executable's path, with `pytest` beside it; they wait until everything is imported."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address, python = f"{folder}/socket", f"{folder}/python"
        for name, start in STARTS.items():
            client = Path(folder, name)
            client.write_text(
                CLIENT.format(real=sys.executable, python=python, start=start, address=address)
            )
            client.chmod(0o700)
        listener.bind(address)
        listener.listen()
        with subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            cwd=folder, pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
        ) as server:  # fmt: skip
            yield python
            server.terminate()


def serve(listener: socket.socket) -> tuple[list[str], str, dict[str, str]]:
    """The arguments, folder and environment of a process, in the copy that is to be it."""
    sys.path.remove(str(Path(__file__).parent))  # folders there are named like Python's modules
    import pytest

    class Imports:
        """As pytest imports: some of it are plugins, which it rewrites, and complains where it
        cannot."""

        def pytest_cmdline_main(self) -> None:
            for name in IMPORTED:
                importlib.import_module(name)

    pytest.main(["--version"] * 2, plugins=[Imports()])
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # a copy that went through it all would have to copy its memory, too
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # it has ended, with whoever started this
            sys.exit()
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, files, *_ = socket.recv_fds(connection, 8, 3)
        with connection.makefile("rb") as request:
            asked = json.loads(request.read(int.from_bytes(size, "big")))
        process = os.fork()
        if not process:
            connection.close()
            _take(files)
            return asked
        _tell(connection, process)


def _take(files: list[int]) -> None:
    for at, file in enumerate(files):
        os.dup2(file, at)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(at, mode, closefd=False) for at, mode in enumerate(("r", "w", "w"))
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _tell(connection: socket.socket, process: int) -> None:
    """Say which process it is and how it ended; whoever kills the client kills it."""

    def kill_with_client() -> None:
        connection.recv(1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    try:
        connection.sendall(f"{process}\n".encode())
        threading.Thread(target=kill_with_client, daemon=True).start()
        _, status = os.waitpid(process, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What Python does with these arguments."""
    paths = list(sys.path)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.executable, *given = arguments
    if given[0] == "-u":
        del given[0]
    if given[0].startswith("-m") and given[0] != "-m":
        given[:1] = ["-m", given[0][2:]]
    sys.path[:] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":")), *paths]
    if given[0] == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        sys.path[0], sys.argv[:] = "", ["-c", *given[2:]]
        exec(given[1], main.__dict__)
    elif given[0] == "-m":
        sys.argv[:] = given[1:]
        runpy.run_module(given[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv[:] = str(Path(given[0]).parent), given
        runpy.run_path(given[0], run_name="__main__")


def leave(status: int) -> NoReturn:
    """As Python ends, but without taking apart everything that was imported."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(*asked)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else end.code is not None)
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)
