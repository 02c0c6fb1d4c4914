"""Processes under measurement: started, read from /proc, and stopped by their id, whatever happens."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something the comparison cannot go on without; the message is for the person who started it."""


def pinned(cpus) -> list:
    """The words before a command that keep it on these processors."""
    if not cpus or not shutil.which("taskset"):
        return []
    return ["taskset", "-c", ",".join(map(str, sorted(cpus)))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Child:
    """A server: the process that was started, and whatever that starts."""

    def __init__(self, name: str, command: list, folder: Path, cpus=()):
        self.name = name
        self.log = folder / f"{name}.out"
        self.began = time.monotonic()
        with self.log.open("wb") as out:
            # A session of its own: an interrupt from the keyboard comes to us, and we stop it in order.
            self.process = subprocess.Popen(
                pinned(cpus) + [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            )

    def wait_for(self, port: int, seconds: float = 60.0) -> float:
        """Until it accepts connections: how long that took since it was started, in seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended at once with {self.process.returncode}:\n{self.tail()}")
            try:
                with socket.create_connection(("127.0.0.1", port), 0.5):
                    return time.monotonic() - self.began
            except OSError:
                time.sleep(0.002)
        raise Failure(f"{self.name} does not listen on {port} after {seconds:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def pids(self) -> list:
        return family(self.process.pid)

    def cpu_seconds(self) -> float:
        """User and system time of all threads and processes so far, ended ones included."""
        ticks = 0
        for pid in self.pids():
            fields = stat(pid)
            # utime, stime, and those of children that were waited for (proc(5), fields 14 to 17).
            ticks += sum(map(int, fields[11:15])) if fields else 0
        return ticks / TICKS

    def peak_kib(self) -> int:
        """The largest process' peak. Not the sum: a master and its workers share most pages."""
        return max((memory(pid, "VmHWM") for pid in self.pids()), default=0)

    def resident_kib(self) -> int:
        """What the largest process has now."""
        return max((memory(pid, "VmRSS") for pid in self.pids()), default=0)

    def stop(self) -> None:
        pids = self.pids()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.process.wait()


class Children:
    """Everything that runs, so that leaving the block stops all of it."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in reversed(self.running):
            child.stop()

    def start(self, *args, **kwargs) -> Child:
        child = Child(*args, **kwargs)
        self.running.append(child)
        return child


def stat(pid: int):
    """The fields of /proc/PID/stat after the command's name, which may hold spaces and parentheses itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2:].split()


def family(root: int) -> list:
    """A process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(int(entry))):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(parents.get(pid, []))
    return found


def memory(pid: int, kind: str) -> int:
    """In KiB, by its name in /proc/PID/status."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), 0)
