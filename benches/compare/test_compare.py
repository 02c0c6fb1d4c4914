"""What must hold of the figures: how output is read, when there is no ratio, and that nothing outlives the comparison."""

import os
import sys
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path

import calls
import idle
import load
import material
import proxies
import report
from processes import Child, Children, Failure, family
from scenarios import BESIDE, FEW, MANY, SCENARIOS, Scenario

H2LOAD = """
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
finished in 2.50s, 40.00 req/s, 2.21MB/s
requests: 110 total, 110 started, 110 done, 100 succeeded, {failed} failed, {errored} errored, 0 timeout
status codes: {good} 2xx, {moved} 3xx, 0 4xx, 0 5xx
"""


def h2load(good=100, moved=0, failed=0, errored=0, log=""):
    return load.parse_h2load(H2LOAD.format(good=good, moved=moved, failed=failed, errored=errored), log)


def run(requests=1000, errors=0, cpu=0.02):
    return {"requests": requests, "errors": errors, "seconds": 1.0, "p50": 1.0, "p99": 2.0, "tls": "", "cpu_seconds": cpu}


def figures(**runs):
    return report.figures({"runs": runs, "peak_kib": {}})


class Load(unittest.TestCase):
    def test_h2load_is_read(self):
        log = "".join(f"1\t200\t{microseconds}\n" for microseconds in range(1000, 101000, 1000))
        result = h2load(log=log)
        self.assertEqual((result.requests, result.errors, result.seconds), (100, 0, 2.5))
        self.assertEqual((result.p50, result.p99), (50.0, 99.0))
        self.assertEqual(result.tls, "TLSv1.3 TLS_AES_128_GCM_SHA256")

    def test_failures_and_redirects_are_errors(self):
        self.assertEqual(h2load(good=90, failed=10).errors, 10)
        self.assertEqual(h2load(good=90, failed=10, errored=10).errors, 10)
        self.assertEqual(h2load(good=95, moved=5).errors, 5)

    def test_without_a_result_it_fails(self):
        for parse in (lambda: load.parse_h2load("Segmentation fault", ""), lambda: load.parse_wrk("unable to connect")):
            self.assertRaises(Failure, parse)

    def test_wrk_counts_refusals_among_requests_and_we_do_not(self):
        result = load.parse_wrk('x\nRESULT {"requests":100,"errors":40,"seconds":2.0,"p50":1.5,"p99":9.0}\n')
        self.assertEqual((result.requests, result.errors, result.p99), (60, 40, 9.0))

    def test_headers_keep_their_quotes_in_lua(self):
        self.assertEqual(load.lua('a"b\\c'), '"a\\"b\\\\c"')


class Figures(unittest.TestCase):
    def test_a_ratio_above_one_means_that_the_gateway_is_cheaper(self):
        out = figures(gateway=[run(cpu=0.02), run(cpu=0.04)], nginx=[run(cpu=0.03), run(cpu=0.03)])
        self.assertAlmostEqual(out["gateway"]["cpu_min"], 2.0)
        self.assertAlmostEqual(out["nginx"]["ratio_min"], 1.5)
        self.assertAlmostEqual(out["nginx"]["ratio_median"], 1.0)

    def test_one_error_in_one_round_takes_the_ratio_away(self):
        for bad in (run(errors=1), run(requests=0, errors=0)):
            for runs in ({"gateway": [run(), bad], "nginx": [run(), run()]}, {"gateway": [run(), run()], "nginx": [run(), bad]}):
                out = figures(**runs)
                self.assertIsNone(out["nginx"]["ratio_min"])
                self.assertIsNone(out["nginx"]["ratio_median"])
                self.assertTrue(report.failed({"scenarios": [{"figures": out}]}))

    def test_what_one_thing_more_costs_is_told_of_the_same_proxy_and_not_of_failed_runs(self):
        plain, two = figures(gateway=[run(cpu=0.02)], nginx=[run(cpu=0.01)]), figures(gateway=[run(cpu=0.03)], nginx=[run(errors=1)])
        whole = {"scenarios": [{"name": "plain-3", "figures": plain}, {"name": "two-threads", "figures": two}]}
        rows = [line for line in report.beside(whole) if line.startswith("| two-threads")]
        self.assertEqual(rows, ["| two-threads / plain-3 | gateway | 1.50 | 1.50 | 1.00 |", "| two-threads / plain-3 | nginx | – | – | – |"])
        self.assertEqual(report.beside({"scenarios": [{"name": "two-threads", "figures": two}]}), [])

    def test_each_scenario_that_stands_beside_another_differs_in_one_thing(self):
        by_name = {scenario.name: scenario for scenario in SCENARIOS}
        for name, other in BESIDE.items():
            one, two = vars(by_name[name]), vars(by_name[other])
            self.assertEqual(len([key for key in one if key not in ("name", "title") and one[key] != two[key]]), 1, name)

    def test_one_that_is_compared_with_itself_has_no_line_of_ratios(self):
        alone = {"name": "features", "title": "alone", "load": "h2load", "figures": figures(gateway=[run()])}
        beside = {"name": "plain-3", "title": "beside", "load": "h2load", "figures": figures(gateway=[run()], nginx=[run()])}
        about = {"date": "", "machine": "", "rounds": 1, "requests": 1, "in_flight": 1, "versions": {}, "notes": []}
        text = report.markdown({"about": about, "scenarios": [alone, beside]})
        self.assertIn("| beside | 1.00 / 1.00 | – |", text)
        self.assertNotIn("| alone |", text)

    def test_times_of_loading_are_in_milliseconds(self):
        rows = report.loads({"scenarios": [{"name": "routes-10k", "loads": {
            "gateway": {"start": 0.1234, "reload": 0.09}, "nginx": {"start": 0.2, "reload": None}}}]})
        self.assertEqual(rows[-2:], ["| routes-10k | gateway | 123 | 90 |", "| routes-10k | nginx | 200 | – |"])

    def test_different_ciphers_are_told(self):
        one, other = run() | {"tls": "TLSv1.3 A"}, run() | {"tls": "TLSv1.3 B"}
        self.assertEqual(report.unlike("tls", {"gateway": [one], "nginx": [one]}), [])
        self.assertEqual(report.unlike("plain", {"gateway": [run()], "nginx": [run()]}), [])
        self.assertIn("nginx TLSv1.3 B", report.unlike("tls", {"gateway": [one], "nginx": [other]})[0])

    def test_the_table_goes_between_its_marks_and_nowhere_else(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text(f"before\n{report.BEGIN}\nold \\1\n{report.END}\nafter\n")
            report.write_into(page, "new \\1")
            self.assertEqual(page.read_text(), f"before\n{report.BEGIN}\n\nnew \\1\n{report.END}\nafter\n")
            page.write_text(f"{report.END} {report.BEGIN}")
            self.assertRaises(Failure, report.write_into, page, "x")


class Calls(unittest.TestCase):
    def test_the_count_of_strace_is_read_without_its_sum(self):
        text = "    calls syscall\n--------- -----------\n       10 futex\n      200 writev\n--------- ----\n      210 total\n"
        self.assertEqual(list(calls.parse(text).items()), [("writev", 200), ("futex", 10)])

    @unittest.skipIf(calls.missing(), "no strace here")
    def test_calls_are_those_of_the_traced_process(self):
        with tempfile.TemporaryDirectory() as folder, Children() as children:
            script = "import os,sys\nfor line in sys.stdin: pass\nwhile True: os.getppid(); __import__('time').sleep(0.001)"
            child = children.start("busy", [sys.executable, "-c", script], Path(folder))
            counted = {}
            try:
                # On a busy machine the process may not have begun yet.
                for _ in range(50):
                    counted = calls.per_request(child, lambda: time.sleep(0.3) or 10, Path(folder))
                    if "getppid" in counted:
                        break
            except Failure as failure:
                self.skipTest(str(failure))
        self.assertGreater(counted["getppid"], 0)
        self.assertAlmostEqual(counted["total"], sum(number for name, number in counted.items() if name != "total"))


class IdleConnections(unittest.TestCase):
    def held(self, answer: bytes, count: int = 3):
        """A server that answers so, and what comes of holding connections to it: how many were open, or the failure."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            accepted = []

            def serve():
                for _ in range(count):
                    connection, _ = server.accept()
                    accepted.append(connection)
                    connection.recv(4096)
                    connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            scenario = Scenario("idle", "", FEW, idle=count)
            try:
                with idle.Idle(scenario, server.getsockname()[1], Path("none"), ()):
                    for connection in accepted:
                        connection.setblocking(False)
                        self.assertRaises(BlockingIOError, connection.recv, 1)
                for connection in accepted:
                    connection.setblocking(True)
                    self.assertEqual(connection.recv(1), b"", "it is closed when the block ends")
                return len(accepted)
            finally:
                for connection in accepted:
                    connection.close()

    def test_they_stay_open_while_the_block_lasts(self):
        self.assertEqual(self.held(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), 3)

    def test_a_refusal_is_a_failure(self):
        self.assertRaises(Failure, self.held, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 1)


class Material(unittest.TestCase):
    def test_ecdsa_signatures_become_64_bytes_also_with_leading_zeros(self):
        r, s = bytes(31) + b"\x07", b"\x80" + bytes(31)
        der = b"\x30\x26\x02\x01\x07\x02\x21\x00" + s
        self.assertEqual(material.raw_ecdsa(der), r + s)

    def test_networks_do_not_touch(self):
        with tempfile.TemporaryDirectory() as folder:
            cidrs, _ = material.address_lists(Path(folder), 1000)
            lines = cidrs.read_text().splitlines()
        self.assertEqual((len(lines), len(set(lines)), lines[0]), (1000, 1000, "127.0.0.0/8"))
        self.assertNotIn("20.0.1.0/24", lines)

    def test_a_million_networks_are_as_many(self):
        with tempfile.TemporaryDirectory() as folder:
            cidrs, _ = material.address_lists(Path(folder), 1_000_000)
            lines = cidrs.read_text().splitlines()
        self.assertEqual((len(lines), len(set(lines))), (1_000_000, 1_000_000))
        self.assertEqual((lines[2], lines[-1]), ("20.0.0.8/30", "20.122.17.240/30"))

    def test_the_titles_count_the_fields_right(self):
        self.assertEqual((len(FEW) + 2, len(MANY) + 2), (3, 20))

    def test_versions_are_numbers(self):
        self.assertEqual(proxies.numbers("HAProxy version 2.10.0-1+deb12u4"), (2, 10, 0))
        self.assertGreater(proxies.numbers("2.10"), proxies.numbers("2.9.1"))


@unittest.skipUnless(sys.platform == "linux", "reads /proc")
class Processes(unittest.TestCase):
    def test_children_of_children_are_counted_and_stopped_also_when_they_refuse(self):
        with tempfile.TemporaryDirectory() as folder:
            # A shell that ignores SIGTERM, with a busy child.
            script = "trap '' TERM; sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 60' & wait; sleep 60"
            try:
                with Children() as children:
                    child = children.start("stubborn", ["sh", "-c", script], Path(folder))
                    while "done" not in child.tail():
                        self.assertIsNone(child.process.poll())
                    pids = family(child.process.pid)
                    self.assertGreaterEqual(len(pids), 2)
                    self.assertGreater(child.cpu_seconds(), 0)
                    self.assertGreater(child.peak_kib(), 0)
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
        # A killed process ends when the system gets to it.
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual([pid for pid in pids if alive(pid)], [])

    def test_a_server_that_ends_at_once_says_why(self):
        with tempfile.TemporaryDirectory() as folder:
            child = Child("broken", ["sh", "-c", "echo the reason; exit 3"], Path(folder))
            child.process.wait()
            with self.assertRaisesRegex(Failure, "(?s)with 3.*the reason"):
                child.wait_for(1)


def alive(pid: int) -> bool:
    """Ended processes whose parent has not asked for them yet do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    unittest.main()
