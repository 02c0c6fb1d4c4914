"""Before anything is measured: does each proxy do the scenario's job? A fast proxy that lets everybody in is no rival."""

import http.client
import ssl

from material import Material
from processes import Failure
from scenarios import HOST, Scenario


def same_job(subject, scenario: Scenario, port: int, made: Material, told: bool) -> None:
    def ask(path: str, token: str = "", extra=None) -> tuple:
        return get(scenario, port, made, path, token, extra or {})

    token = made.tokens[scenario.token][0] if scenario.token else ""
    status, body = ask(scenario.path, token)
    if status != 200 or len(body) != scenario.size:
        raise Failure(f"{subject.name} answers {scenario.name} with {status} and {len(body)} bytes, not 200 and {scenario.size}")
    if not scenario.token:
        return
    if subject.verifies:
        for what, bad in [("no token", ""), ("a stranger's signature", made.forged[scenario.token]), ("no signature", unsigned(token))]:
            status, _ = ask(scenario.path, bad)
            if status not in (401, 403):
                raise Failure(f"{subject.name} answers {what} with {status}: it verifies nothing")
    if told and scenario.chain:
        # What a client says of itself never arrives; what the token says does, and the token itself does not.
        _, body = ask("/told", token, {"x-user": "spoofed"})
        expected = b"user-0|" if subject.verifies else b"|"
        if body != expected:
            raise Failure(f"{subject.name} tells the upstream {body[:100]!r} instead of {expected!r}")


def unsigned(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'A' * len(signature)}"


def get(scenario, port, made, path, token, extra) -> tuple:
    if scenario.tls:
        context = ssl.create_default_context(cafile=str(made.cert))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Host": HOST} | scenario.headers | extra
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer to {path} on port {port}: {error}") from error
    finally:
        connection.close()
