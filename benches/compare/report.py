"""From runs to figures, and from figures to a table."""

import re
from pathlib import Path
from statistics import median

from processes import Failure
from scenarios import BESIDE

BEGIN, END = "<!-- compare:begin -->", "<!-- compare:end -->"


def summary(results: list, about: dict) -> dict:
    return {"about": about, "scenarios": [result | {"figures": figures(result)} for result in results]}


def figures(result: dict) -> dict:
    """For each proxy. Those with an error in any run have no CPU figure, and nobody has a ratio to them."""
    out = {}
    for name, runs in result["runs"].items():
        errors = sum(run["errors"] for run in runs)
        costs = [100_000 * run["cpu_seconds"] / run["requests"] for run in runs if run["requests"]]
        good = not errors and len(costs) == len(runs) > 0
        rates = [run["requests"] / run["seconds"] for run in runs if run["seconds"]]
        out[name] = {
            "errors": errors,
            "cpu_min": min(costs) if good else None,
            "cpu_median": median(costs) if good else None,
            "rate_median": median(rates) if good and rates else None,
            "p50_median": middle(runs, "p50") if good else None,
            "p99_median": middle(runs, "p99") if good else None,
            "peak_mib": result["peak_kib"].get(name, 0) / 1024,
        }
    gateway = out.get("gateway", {})
    for name, figure in out.items():
        if name != "gateway":
            figure["ratio_min"] = ratio(figure["cpu_min"], gateway.get("cpu_min"))
            figure["ratio_median"] = ratio(figure["cpu_median"], gateway.get("cpu_median"))
    return out


def unlike(name: str, runs: dict) -> list:
    """A word where proxies agreed on different ciphers: they did not do the same work then."""
    ciphers = {proxy: sorted({run["tls"] for run in of_one if run["tls"]}) for proxy, of_one in runs.items()}
    if len(set(map(tuple, filter(None, ciphers.values())))) < 2:
        return []
    told = ", ".join(f"{proxy} {' and '.join(used)}" for proxy, used in ciphers.items())
    return [f"{name}: the ciphers differ: {told}"]


def middle(runs: list, key: str):
    values = [run[key] for run in runs if run[key] is not None]
    return median(values) if values else None


def ratio(other, own):
    """Above 1: the gateway is the cheaper one."""
    return other / own if other and own else None


def failed(whole: dict) -> bool:
    return any(figure["errors"] or figure["cpu_min"] is None for s in whole["scenarios"] for figure in s["figures"].values())


def one_line(run: dict) -> str:
    if not run["requests"]:
        return f"no request was answered well, {run['errors']} errors"
    text = f"{100_000 * run['cpu_seconds'] / run['requests']:.2f} CPU s / 100,000 ({run['requests']} requests)"
    return text + (f", {run['errors']} ERRORS" if run["errors"] else "")


def markdown(whole: dict) -> str:
    about, lines = whole["about"], []
    amount = f"about {about['requests']} requests" if about["requests"] else f"{about['seconds']:g} s"
    lines.append(f"{about['date']} · {about['machine']} · rounds: {about['rounds']}, interleaved, each {amount} · {about['in_flight']} requests in flight")
    lines.append("")
    lines.append(" · ".join(f"{name} {version}" if name not in version.lower() else version for name, version in about["versions"].items()))
    lines += ["", "| scenario | to nginx | to HAProxy |", "|---|---|---|"]
    for scenario in whole["scenarios"]:
        pairs = [scenario["figures"].get(name, {}) for name in ("nginx", "haproxy")]
        if not any(at.get("ratio_min") for at in pairs):
            # One that compares the gateway with itself.
            continue
        cells = [f"{show(at.get('ratio_min'))} / {show(at.get('ratio_median'))}" if at.get("ratio_min") else "–" for at in pairs]
        lines.append(f"| {scenario['title']} | {' | '.join(cells)} |")
    lines += ["", "Ratio of the CPU seconds, minimum / median of the rounds; above 1 the gateway is the cheaper one.", ""]
    lines.append("| scenario | proxy | CPU s per 100,000, min | median | requests/s | p50 ms | p99 ms | peak MiB | errors |")
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for scenario in whole["scenarios"]:
        for name, at in scenario["figures"].items():
            rate = f"{at['rate_median']:,.0f}" if at["rate_median"] else "–"
            cells = [show(at["cpu_min"]), show(at["cpu_median"]), rate, show(at["p50_median"]), show(at["p99_median"])]
            lines.append(f"| {scenario['name']} ({scenario['load']}) | {name} | {' | '.join(cells)} | {at['peak_mib']:.0f} | {at['errors']} |")
    lines += beside(whole) + idle(whole) + loads(whole) + system_calls(whole)
    lines.append("")
    lines += [f"- {note}" for note in about["notes"]]
    return "\n".join(lines) + "\n"


def beside(whole: dict) -> list:
    """What one thing more costs: CPU seconds and p99 of a scenario over those of the one that lacks it, in the same comparison."""
    by_name = {scenario["name"]: scenario["figures"] for scenario in whole["scenarios"]}
    rows = []
    for name, figures_with in by_name.items():
        for proxy, at in figures_with.items():
            without = by_name.get(BESIDE.get(name), {}).get(proxy)
            if without:
                cells = [show(ratio(at[key], without[key])) for key in ("cpu_min", "cpu_median", "p99_median")]
                rows.append(f"| {name} / {BESIDE[name]} | {proxy} | {' | '.join(cells)} |")
    head = ["", "Each of these over the scenario that differs in this one thing:", "",
            "| scenario | proxy | CPU, min | median | p99 |", "|---|---|--:|--:|--:|"]
    return head + rows if rows else []


def idle(whole: dict) -> list:
    rows = [
        f"| {scenario['name']} | {proxy} | {at['connections']:,} | {at['kib_each']:.1f} |"
        for scenario in whole["scenarios"] for proxy, at in scenario.get("idle", {}).items()
    ]
    head = ["", "| scenario | proxy | idle connections | KiB each |", "|---|---|--:|--:|"]
    return head + rows if rows else []


def loads(whole: dict) -> list:
    rows = [
        f"| {scenario['name']} | {proxy} | {millis(at['start'])} | {millis(at['reload'])} |"
        for scenario in whole["scenarios"] for proxy, at in scenario.get("loads", {}).items()
    ]
    head = ["", "| scenario | proxy | start, ms | reload, ms, min |", "|---|---|--:|--:|"]
    return head + rows if rows else []


def millis(seconds) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f}"


def system_calls(whole: dict) -> list:
    rows = []
    for scenario in whole["scenarios"]:
        for proxy, counted in scenario.get("calls", {}).items():
            most = ", ".join(f"{name} {calls:.2f}" for name, calls in counted.items() if name != "total" and calls >= 0.01)
            rows.append(f"| {scenario['name']} | {proxy} | {counted['total']:.2f} | {most} |")
    head = ["", "| scenario | proxy | system calls per request | of these |", "|---|---|--:|---|"]
    return head + rows if rows else []


def show(value) -> str:
    return "–" if value is None else f"{value:.2f}"


def write_into(page: Path, table: str) -> None:
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Failure(f"{page} has no place for the table between `{BEGIN}` and `{END}`")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n\n{table}\n{END}", text, flags=re.S))
