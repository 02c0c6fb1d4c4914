"""The gateway beside nginx and HAProxy: CPU seconds for each 100,000 requests, throughput, latency and peak memory.

Each scenario starts its proxies anew, checks that they do the same job, warms them up, and then runs round after round,
each proxy in turn, so that what else the machine does hits all of them alike.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import calls
import check
import load
import material
import proxies
import report
from idle import Idle
from load import Amount
from processes import Children, Failure
from scenarios import SCENARIOS

# After a run, connections still close and logs are flushed. That is part of what a run costs.
SETTLE = 1.1

# How long connections have been idle when their memory is looked at.
RESTED = 5


def main() -> int:
    args = arguments()
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:13}{scenario.title}")
        return 0
    # So that a `kill` unwinds as an interrupt from the keyboard does, and stops what runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return compare(args)
    except Failure as failure:
        print(f"compare: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare/run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="", help="the gateway to measure; without it, run.sh builds one")
    parser.add_argument("--rounds", type=number(1), default=5, help="rounds of each scenario (default 5)")
    parser.add_argument("--seconds", type=duration, default=3.0, help="length of one run (default 3)")
    parser.add_argument("--requests", type=number(0), default=0,
                        help="about so many requests a run instead of a time; for a quick look, the figures are coarse")
    parser.add_argument("--only", default="", help="names of scenarios, with commas between (see --list)")
    parser.add_argument("--tokens", type=number(1), default=1000, help="tokens in rotation (default 1000)")
    parser.add_argument("--networks", type=number(1), default=10000, help="networks of the address rule (default 10000)")
    parser.add_argument("--driver", default="", help="the `driver` of the gateway's listener, where its version has that key")
    parser.add_argument("--alone", action="store_true", help="the gateway without nginx and HAProxy: there are no ratios then")
    parser.add_argument("--calls", action="store_true", help="count the system calls of a request too, with strace")
    parser.add_argument("--out", type=Path, default=Path("target/compare"), help="folder for compare.json and compare.md")
    parser.add_argument("--docs", type=Path, help="a page whose marked place gets the table, such as docs/performance.md")
    parser.add_argument("--list", action="store_true", help="the scenarios")
    return parser.parse_args()


def duration(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 300:
        raise argparse.ArgumentTypeError("0.1 to 300")
    return value


def number(least: int):
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{least} or more")
        return value

    return parse


def compare(args) -> int:
    wanted = set(filter(None, args.only.split(",")))
    unknown = wanted - {scenario.name for scenario in SCENARIOS}
    if unknown:
        raise Failure(f"no scenario is named {', '.join(sorted(unknown))}; see --list")
    chosen = [scenario for scenario in SCENARIOS if not wanted or scenario.name in wanted]
    # Ours and that of everything started from here: idle connections are files.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    binary = str(Path(args.binary).resolve())
    if not os.access(binary, os.X_OK):
        raise Failure(f"there is no gateway at `{args.binary}`; give --binary, or start run.sh without it")
    if not shutil.which("openssl"):
        raise Failure("the `openssl` command is needed, for certificates and tokens")

    subjects, notes = proxies.present(binary)
    if args.alone:
        subjects = [subject for subject in subjects if subject.name == "gateway"]
    proxy_cpus, other_cpus, pinning = processors()
    notes.append(pinning)
    if args.driver:
        notes.append(f"the gateway's driver: {args.driver}")
    if args.calls and calls.missing():
        notes.append(calls.missing())
    with tempfile.TemporaryDirectory(prefix="portcullis-compare-") as name, Children() as base:
        folder = Path(name)
        algorithms = sorted({scenario.token for scenario in chosen if scenario.token})
        if algorithms:
            print(f"compare: signing {args.tokens} tokens with each of {', '.join(algorithms)}", file=sys.stderr)
        made = material.make(folder / "material", algorithms, args.tokens, args.networks)
        addresses = max(scenario.backends for scenario in chosen)
        upstream, which = proxies.upstream(base, folder / "upstream", binary, other_cpus, made, addresses)
        notes.append(f"upstream: {which}")
        results = []
        for scenario in chosen:
            # With more threads than one, the proxy may run where the load does: it would not be two threads otherwise.
            cpus = proxy_cpus if scenario.threads == 1 else ()
            place = proxies.Place(scenario, folder / scenario.name, made, upstream, cpus, args.driver)
            result = run_scenario(args, place, subjects, other_cpus, notes, told=which.startswith("nginx"))
            if result:
                results.append(result)

    whole = report.summary(results, {
        "machine": machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {subject.name: subject.version() for subject in subjects},
        "rounds": args.rounds, "seconds": args.seconds, "requests": args.requests, "in_flight": load.IN_FLIGHT,
        "tokens": args.tokens, "networks": args.networks, "notes": notes,
    })
    table = report.markdown(whole)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "compare.json").write_text(json.dumps(whole, indent=2) + "\n")
    (args.out / "compare.md").write_text(table)
    if args.docs:
        report.write_into(args.docs, table)
    print(table)
    return 1 if report.failed(whole) else 0


def run_scenario(args, place, subjects, load_cpus, notes, told: bool):
    scenario = place.scenario
    generator, missing = load.choose(scenario, load_cpus)
    if not generator:
        notes.append(f"{scenario.name} is left out: {missing}")
        return None
    tokens = place.material.tokens.get(scenario.token, [])
    if tokens and generator.name == "h2load":
        notes.append(f"{scenario.name}: one token only, wrk is needed to send them in rotation")
    amount = Amount(args.seconds, args.requests)
    warm_up = Amount(min(1.0, args.seconds), args.requests)
    runs = {}
    with Children() as children:
        running = {}
        for subject in subjects:
            lack = subject.lacks(scenario)
            if lack == proxies.own(scenario) != "":
                continue
            if lack:
                notes.append(f"{scenario.name}: {subject.name} is left out: {lack}")
                continue
            running[subject.name] = subject.start(children, place)
            check.same_job(subject, scenario, running[subject.name].port, place.material, told)
            generator.run(scenario, running[subject.name].port, tokens, warm_up, place.folder)
            runs[subject.name] = []
        idle = {}
        with ExitStack() as waiting:
            for name, at in running.items() if scenario.idle else ():
                before = at.child.resident_kib()
                waiting.enter_context(Idle(scenario, at.port, place.material.cert, load_cpus))
                # What is given back for a connection that waits, and not at once, is given back by then.
                time.sleep(RESTED)
                idle[name] = {"connections": scenario.idle, "kib_each": (at.child.resident_kib() - before) / scenario.idle}
            for turn in range(args.rounds):
                names = list(running)
                # Nobody is always first, or always after the same one.
                for name in names[turn % len(names):] + names[:turn % len(names)]:
                    run = measured(generator, scenario, running[name], tokens, amount, place.folder)
                    runs[name].append(run)
                    print(f"compare: {scenario.name} {turn + 1}/{args.rounds} {name}: {report.one_line(run)}", file=sys.stderr)
        peaks = {name: at.child.peak_kib() for name, at in running.items()}
        loads = {}
        if scenario.routes > 1 or scenario.networks > 1000:
            for subject in subjects:
                if subject.name in running:
                    at = running[subject.name]
                    reloads = [subject.reload(at) for _ in range(args.rounds)]
                    loads[subject.name] = {"start": at.start_seconds, "reload": min(reloads) if all(reloads) else None}
        counted = {}
        if args.calls and not calls.missing():
            for name, at in running.items():
                once = lambda at=at: generator.run(scenario, at.port, tokens, warm_up, place.folder).requests
                counted[name] = calls.per_request(at.child, once, place.folder)
    notes += report.unlike(scenario.name, runs)
    return {"name": scenario.name, "title": scenario.title, "load": generator.name, "runs": runs, "peak_kib": peaks,
            "idle": idle, "loads": loads, "calls": counted}


def measured(generator, scenario, at, tokens, amount, folder) -> dict:
    before = at.child.cpu_seconds()
    result = generator.run(scenario, at.port, tokens, amount, folder)
    time.sleep(SETTLE)
    if at.child.process.poll() is not None:
        raise Failure(f"{at.child.name} ended during {scenario.name}:\n{at.child.tail()}")
    return vars(result) | {"cpu_seconds": round(at.child.cpu_seconds() - before, 3)}


def processors() -> tuple:
    """One processor for the proxy under test, the others for load and upstream."""
    cpus = sorted(os.sched_getaffinity(0))
    if not shutil.which("taskset"):
        return (), (), "nothing is pinned: taskset is not installed"
    if len(cpus) < 2:
        return (), (), "nothing is pinned: there is one processor"
    return (cpus[0],), tuple(cpus[1:]), f"the proxy has processor {cpus[0]}, load and upstream share {len(cpus) - 1} other(s)"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    return f"{model}, {len(os.sched_getaffinity(0))} processors, Linux {os.uname().release.split('-')[0]}"


if __name__ == "__main__":
    sys.exit(main())
