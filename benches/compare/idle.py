"""Connections that wait: each has had one request answered, and its next one does not come.

`main.py` starts this file as a process of its own for each proxy, so that neither files nor memory add up.
"""

import socket
import ssl
import subprocess
import sys
from pathlib import Path

from processes import Failure, pinned
from scenarios import HOST, Scenario


class Idle:
    """The connections to one proxy, while the block lasts."""

    def __init__(self, scenario: Scenario, port: int, certificate: Path, cpus):
        command = [sys.executable, __file__, port, scenario.path, scenario.idle, certificate if scenario.tls else ""]
        self.count = scenario.idle
        self.process = subprocess.Popen(pinned(cpus) + [str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)

    def __enter__(self):
        said = self.process.stdout.readline()
        if said != "ready\n":
            self.__exit__()
            raise Failure(f"{self.count} idle connections could not be opened: {said.strip() or 'see above'}")
        return self

    def __exit__(self, *_):
        # It ends with its input, and its connections with it.
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def hold(port: int, path: str, count: int, certificate: str) -> None:
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        if context:
            connection = context.wrap_socket(connection, server_hostname=HOST)
        connection.sendall(request)
        read_response(connection)
        held.append(connection)
    print("ready", flush=True)
    sys.stdin.read()


def read_response(connection) -> None:
    """One response with a length, all of it: what is left unread would make the connection busy."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += more(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    if " 200" not in lines[0]:
        raise SystemExit(f"refused: {lines[0]}")
    length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), None)
    if length is None:
        raise SystemExit("a response without a length")
    while len(body) < length:
        body += more(connection)


def more(connection) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("closed in the middle of a response")
    return data


if __name__ == "__main__":
    try:
        hold(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
    except OSError as error:
        raise SystemExit(f"idle connections: {error}") from error
