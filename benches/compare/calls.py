"""System calls of a request, counted by strace on a proxy that runs. Apart from the measured rounds: strace slows it down."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from processes import Failure


def per_request(child, load, folder: Path) -> dict:
    """`load` sends requests and gives their number. By name of the call, the most frequent first; `total` is all of them."""
    report = folder / f"{child.name}.strace"
    pids = [word for pid in child.pids() for word in ("-p", str(pid))]
    strace = subprocess.Popen(["strace", "-f", "-q", "-c", "-U", "calls,name", "-o", str(report), *pids], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until_traced(child.pids(), strace)
        requests = load()
    finally:
        # It lets go of the processes, which run on, and writes what it has counted.
        strace.send_signal(signal.SIGINT)
        _, said = strace.communicate(timeout=30)
    if not requests:
        raise Failure(f"no request was answered well while strace counted the calls of {child.name}")
    counted = parse(report.read_text())
    if not counted:
        raise Failure(f"strace counted nothing of {child.name}: {said.strip()}")
    return {"total": sum(counted.values()) / requests} | {name: calls / requests for name, calls in counted.items()}


def wait_until_traced(pids: list, strace) -> None:
    deadline = time.monotonic() + 10
    while not all(is_traced(pid) for pid in pids):
        if strace.poll() is not None or time.monotonic() > deadline:
            raise Failure("strace cannot attach to the proxy (is ptrace allowed?)")
        time.sleep(0.02)


def is_traced(pid: int) -> bool:
    """All threads of it."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        if "TracerPid:\t0\n" in Path(f"/proc/{pid}/task/{thread}/status").read_text():
            return False
    return True


def parse(text: str) -> dict:
    counted = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0].isdigit() and words[1] != "total":
            counted[words[1]] = int(words[0])
    return dict(sorted(counted.items(), key=lambda pair: -pair[1]))


def missing() -> str:
    return "" if shutil.which("strace") else "strace is not installed: system calls are not counted"
