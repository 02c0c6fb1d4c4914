"""Load: one run of h2load or wrk against one proxy, and what came of it."""

import json
import math
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from processes import Failure, pinned
from scenarios import HOST, Scenario

# In flight at once, in every scenario. With HTTP/2: connections times streams.
IN_FLIGHT = 64
H2_CONNECTIONS = 8


@dataclass
class Result:
    """Of one run. Latencies are in milliseconds; `None` where the generator cannot tell."""

    requests: int
    errors: int
    seconds: float
    p50: float = None
    p99: float = None
    tls: str = ""


@dataclass
class Amount:
    """How much load: for a time, or about a number of requests."""

    seconds: float
    requests: int = 0


class H2load:
    name = "h2load"

    def __init__(self, program: str, cpus):
        self.prefix = pinned(cpus) + [program]

    def run(self, scenario: Scenario, port: int, tokens: list, amount: Amount, folder: Path) -> Result:
        # h2load says the same token with each request; `choose` prefers wrk for tokens.
        headers = dict(scenario.headers)
        if tokens:
            headers["authorization"] = f"Bearer {tokens[0]}"
        if scenario.new_connections:
            return self.connections(scenario, port, headers, amount, folder)
        if scenario.http2:
            shape = ["-c", H2_CONNECTIONS, "-m", IN_FLIGHT // H2_CONNECTIONS]
        else:
            shape = ["--h1", "-c", IN_FLIGHT]
        size = ["-n", max(amount.requests, IN_FLIGHT)] if amount.requests else ["-D", f"{amount.seconds * 1000:.0f}ms"]
        return self.once(scenario, port, headers, shape + size, folder)

    def connections(self, scenario, port, headers, amount, folder) -> Result:
        """As many connections as are in flight, a request on each; again and again. wrk would resume TLS sessions."""
        total = Result(0, 0, 0.0)
        began = time.monotonic()
        while total.requests + total.errors < amount.requests if amount.requests else time.monotonic() - began < amount.seconds:
            one = self.once(scenario, port, headers, ["--h1", "-c", IN_FLIGHT, "-n", IN_FLIGHT], folder)
            total.requests += one.requests
            total.errors += one.errors
            total.tls = one.tls
        # The batches leave gaps, in which the generator starts: neither rate nor latency would mean anything.
        total.seconds = 0.0
        return total

    def once(self, scenario, port, headers, shape, folder) -> Result:
        log = folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = self.prefix + [*map(str, shape), f"--log-file={log}", f"--connect-to=127.0.0.1:{port}"]
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        command.append(f"{'https' if scenario.tls else 'http'}://{HOST}{scenario.path}")
        return parse_h2load(execute(command), log.read_text() if log.exists() else "")


class Wrk:
    name = "wrk"

    def __init__(self, program: str, cpus):
        self.prefix = pinned(cpus) + [program]

    def run(self, scenario: Scenario, port: int, tokens: list, amount: Amount, folder: Path) -> Result:
        script = folder / "load.lua"
        script.write_text(wrk_script(scenario, tokens))
        # wrk knows no number of requests; one second is its least.
        seconds = 1 if amount.requests else max(1, math.ceil(amount.seconds))
        url = f"{'https' if scenario.tls else 'http'}://127.0.0.1:{port}{scenario.path}"
        command = self.prefix + ["-t1", f"-c{IN_FLIGHT}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
        return parse_wrk(execute(command))


def wrk_script(scenario: Scenario, tokens: list) -> str:
    """Requests are put together before the run, one for each token, and sent in rotation."""
    fields = {"Host": HOST, "User-Agent": "wrk"} | scenario.headers
    headers = "".join(f"wrk.headers[{lua(name)}] = {lua(value)}\n" for name, value in fields.items())
    listed = ",\n".join(map(lua, tokens))
    return f"""{headers}
local tokens = {{
{listed}
}}
local requests, at = {{}}, 0
init = function()
  if #tokens == 0 then requests[1] = wrk.format() end
  for index, token in ipairs(tokens) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[index] = wrk.format()
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local errors = summary.errors
  print(string.format('RESULT {{"requests":%d,"errors":%d,"seconds":%.6f,"p50":%.3f,"p99":%.3f}}', summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def lua(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def parse_wrk(text: str) -> Result:
    found = re.search(r"^RESULT (\{.*\})$", text, re.M)
    if not found:
        raise Failure(f"wrk gave no result:\n{text}")
    result = Result(**json.loads(found.group(1)))
    # wrk counts refused requests among the answered ones.
    result.requests -= min(result.errors, result.requests)
    return result


def parse_h2load(text: str, log: str) -> Result:
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s|m|h), ", text, re.M)
    counts = re.search(r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text, re.M)
    statuses = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, re.M)
    if not (finished and counts and statuses):
        raise Failure(f"h2load gave no result:\n{text}")
    seconds = float(finished.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[finished.group(2)]
    good = int(statuses.group(1))
    # `failed` includes what errored and every 4xx and 5xx; a 3xx counts as succeeded there, and as an error here.
    errors = max(int(counts.group(3)), int(counts.group(4))) + int(statuses.group(2))
    times = sorted(int(line.split("\t")[2]) / 1e3 for line in log.splitlines() if line.count("\t") >= 2)
    tls = re.search(r"^TLS Protocol: (.*)\nCipher: (.*)$", text, re.M)
    return Result(good, errors, seconds, percentile(times, 0.50), percentile(times, 0.99), " ".join(tls.groups()) if tls else "")


def percentile(ordered: list, share: float):
    """The nearest rank; `None` of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def execute(command: list) -> str:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=600)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise Failure(f"{command[0]} ended with {process.returncode}:\n{out}")
    return out


def choose(scenario: Scenario, cpus) -> tuple:
    """The generator for a scenario, or `None` and what is missing."""
    h2load, wrk = shutil.which("h2load"), shutil.which("wrk")
    if scenario.http2 or scenario.new_connections:
        return (H2load(h2load, cpus), "") if h2load else (None, "h2load is needed for this (package nghttp2-client)")
    order = [(Wrk, wrk), (H2load, h2load)] if scenario.token else [(H2load, h2load), (Wrk, wrk)]
    for kind, program in order:
        if program:
            return kind(program, cpus), ""
    return None, "h2load (package nghttp2-client) or wrk is needed"
