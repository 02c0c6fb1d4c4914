"""The proxies under test and the upstream, each with the configuration that does the scenario's job.

All three send on `X-Forwarded-For`, `-Proto` and `-Host` and an identifier of the request, which the client gets too;
keep connections to the upstream open; and have as many workers or threads as the scenario says, mostly one. The client's
order decides the cipher, so that all encrypt alike. Logs are on in the whole chain only.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from features import with_everything
from material import AUDIENCE, ISSUER, SCOPE, Material, address_lists
from processes import Child, Children, Failure, free_port
from scenarios import HOST, SCENARIOS, Scenario

SIZES = sorted({scenario.size for scenario in SCENARIOS})


def backend_address(index: int) -> str:
    """All of 127.0.0.0/8 is this machine, so that one upstream can be many backends."""
    return f"127.0.{index // 250}.{index % 250 + 1}"


@dataclass
class Running:
    child: Child
    port: int
    # From its start to its first connection.
    start_seconds: float = 0.0


@dataclass
class Place:
    """What a proxy needs to know to be started for a scenario."""

    scenario: Scenario
    folder: Path
    material: Material
    # Its ports: plain, and with TLS.
    upstream: tuple
    cpus: tuple
    # What forwards HTTP/1.1 in the gateway; its own choice if empty.
    driver: str = ""

    def backends(self) -> list:
        port = self.upstream[self.scenario.backend_tls]
        return [f"{backend_address(index)}:{port}" for index in range(self.scenario.backends)]

    def networks(self, folder: Path) -> tuple:
        """The lists of allowed networks, for the gateway and HAProxy, and for nginx."""
        if self.scenario.networks:
            return address_lists(folder, self.scenario.networks)
        return self.material.cidrs, self.material.geo

    def other_paths(self) -> list:
        """Of the routes that the load is not for."""
        return [f"/area-{index // 100}/part-{index % 100}" for index in range(self.scenario.routes - 1)]


class Proxy:
    name = ""
    program = ""

    def __init__(self, program: str):
        self.program = program

    def lacks(self, scenario: Scenario) -> str:
        """Why it cannot take part, or nothing."""
        return ""

    def start(self, children: Children, place: Place) -> Running:
        folder = place.folder / self.name
        folder.mkdir(parents=True)
        port = free_port()
        child = children.start(self.name, self.command(place, folder, port), folder, place.cpus)
        return Running(child, port, child.wait_for(port))

    def reload(self, running: Running) -> float:
        """Reads its configuration again: how long that takes until it is in force, in seconds. `None` if it does not say."""
        return None

    def command(self, place: Place, folder: Path, port: int) -> list:
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError


def own(scenario: Scenario) -> str:
    """Why a scenario is the gateway's alone: it is compared with another of its own."""
    return "it compares the gateway with itself" if scenario.issuers or scenario.features else ""


class Gateway(Proxy):
    name = "gateway"
    verifies = True

    def version(self) -> str:
        return output(self.program, "version").splitlines()[0]

    def command(self, place, folder, port):
        material, scenario = place.material, place.scenario
        listener = {"name": "edge", "address": f"127.0.0.1:{port}", "limits": {"idle_timeout": "600s"}}
        if place.driver:
            listener["driver"] = place.driver
        if scenario.tls:
            listener["tls"] = {"certificates": [{"cert": str(material.cert), "key": str(material.key)}]}
        route = {"name": "bench", "match": {"path": "/"}, "pool": "upstream"}
        others = [{"name": f"r{index}", "match": {"path": path}, "pool": "upstream"} for index, path in enumerate(place.other_paths())]
        config = {
            "listeners": [listener],
            "pools": {"upstream": {"backends": [{"address": address} for address in place.backends()]}},
            "routes": [route, *others],
        }
        if scenario.backend_tls:
            config["pools"]["upstream"]["tls"] = {"ca": str(material.backend_ca), "server_name": HOST}
        if scenario.chain:
            config |= {
                "admin": {"address": f"127.0.0.1:{free_port()}"},
                "access_log": {"path": str(folder / "access.jsonl")},
                "issuers": {"main": {
                    "issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": [scenario.token],
                    "jwks_file": str(material.jwks),
                }},
            }
            if scenario.forgetful:
                config["issuers"]["main"]["cache"] = "0B"
            route["filters"] = [
                {"ip_allow": {"list": str(material.cidrs)}},
                {"oidc": {"issuer": "main", "scopes": [SCOPE]}},
                {"identity_headers": {"headers": {"x-user": "sub", "x-roles": "roles", "x-client": "client_id"}}},
            ]
        if scenario.networks:
            route["filters"] = [{"ip_allow": {"list": str(place.networks(folder)[0])}}]
        if scenario.issuers:
            names = ["main", *(f"other-{index}" for index in range(scenario.issuers - 1))]
            config["issuers"] = {name: {
                "issuer": ISSUER if name == "main" else f"https://{name}.bench.test", "audiences": [AUDIENCE],
                "algorithms": [scenario.token], "jwks_file": str(material.jwks),
            } for name in names}
            # The one of the tokens is the last that is named.
            route["filters"] = [{"oidc": {"issuer": names[::-1], "scopes": [SCOPE]}}]
        if scenario.features:
            with_everything(config, material, folder, free_port())
        # JSON is YAML.
        path = folder / "portcullis.yaml"
        path.write_text(json.dumps(config, indent=2))
        return [self.program, "run", "--config", path, "--threads", scenario.threads, "--no-watch"]

    def reload(self, running):
        def count() -> int:
            return running.child.log.read_text(errors="replace").count("configuration reloaded")

        before, began = count(), time.monotonic()
        running.child.process.send_signal(signal.SIGHUP)
        while count() == before:
            if time.monotonic() - began > 10:
                raise Failure(f"the gateway does not reload:\n{running.child.tail()}")
            time.sleep(0.001)
        return time.monotonic() - began


class Nginx(Proxy):
    """TLS, address rules, headers and a log in the chain; it has no verification of tokens to offer."""

    name = "nginx"
    verifies = False

    def version(self) -> str:
        return output(self.program, "-v").strip().removeprefix("nginx version: ")

    def lacks(self, scenario):
        return own(scenario)

    def command(self, place, folder, port):
        material, scenario = place.material, place.scenario
        listen = f"listen 127.0.0.1:{port}"
        tls = ""
        if scenario.tls:
            listen += " ssl" + (" http2" if scenario.http2 else "")
            # Sessions are resumed by nobody in this comparison; tickets as they are by default.
            tls = f"""
    ssl_certificate {material.cert};
    ssl_certificate_key {material.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:16m;"""
        chain_http = chain_location = chain_headers = ""
        log = "access_log off;"
        if scenario.chain:
            log = (
                "log_format json escape=json '{\"time\":\"$time_iso8601\",\"id\":\"$request_id\",\"client\":\"$remote_addr\","
                "\"method\":\"$request_method\",\"host\":\"$host\",\"path\":\"$uri\",\"status\":$status,"
                "\"bytes\":$body_bytes_sent,\"duration\":$request_time,\"upstream\":\"$upstream_addr\","
                "\"upstream_duration\":\"$upstream_response_time\",\"tls\":\"$ssl_protocol\",\"agent\":\"$http_user_agent\"}';"
                f"\n  access_log {folder}/access.log json buffer=64k flush=1s;"
            )
            chain_http = f"geo $allowed {{ default 0; include {material.geo}; }}"
            chain_location = "\n      if ($allowed = 0) { return 403; }"
            # Beside the others: in the location, they would take the place of those.
            chain_headers = "".join(f'\n    proxy_set_header {name} "";' for name in ("X-User", "X-Roles", "X-Client", "Authorization"))
        if scenario.networks:
            chain_http = f"geo $allowed {{ default 0; include {place.networks(folder)[1]}; }}"
            chain_location = "\n      if ($allowed = 0) { return 403; }"
        servers = "\n".join(f"    server {address};" for address in place.backends())
        others = "\n".join(f"    location {path} {{ proxy_pass http://backend; }}" for path in place.other_paths())
        scheme = "https" if scenario.backend_tls else "http"
        verified = f"""
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate {material.backend_ca};
    proxy_ssl_name {HOST};
    proxy_ssl_server_name on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;""" if scenario.backend_tls else ""
        conf = f"""
worker_processes {scenario.threads};
events {{ worker_connections 16384; }}
http {{
  {log}
  {temporary(folder)}
  server_tokens off;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  {chain_http}
  upstream backend {{
{servers}
    keepalive {512 + scenario.backends};
    keepalive_requests 1000000000;
  }}
  server {{
    {listen};{tls}
    http2_max_requests 1000000000;
    add_header X-Request-ID $request_id;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Request-ID $request_id;{chain_headers}{verified}
{others}
    location / {{
      proxy_pass {scheme}://backend;{chain_location}
    }}
  }}
}}
"""
        # The directive is gone in later versions, where keepalive_requests counts for HTTP/2 too.
        if self.number() >= (1, 19, 7):
            conf = conf.replace("    http2_max_requests 1000000000;\n", "")
        return nginx_command(self.program, folder, conf)

    def number(self) -> tuple:
        return numbers(self.version())


class Haproxy(Proxy):
    name = "haproxy"

    def version(self) -> str:
        return " ".join(output(self.program, "-v").splitlines()[0].split()[:3])

    @property
    def verifies(self) -> bool:
        return numbers(self.version()) >= (2, 5)

    def lacks(self, scenario):
        return "jwt_verify came with HAProxy 2.5" if scenario.chain and not self.verifies else own(scenario)

    def command(self, place, folder, port):
        material, scenario = place.material, place.scenario
        tls = f" ssl crt {material.bundle} alpn {'h2,' if scenario.http2 else ''}http/1.1" if scenario.tls else ""
        chain = ""
        if scenario.networks:
            chain = f"\n  http-request deny deny_status 403 unless {{ src -f {place.networks(folder)[0]} }}"
        if scenario.chain:
            public = material.public_keys[scenario.token]
            # `log` to standard output, which is a file here: one write for each line.
            chain = f"""
  log stdout format raw local0
  log-format '{{"time":"%tr","id":"%ID","client":"%ci","method":"%HM","host":"%[capture.req.hdr(0)]","path":"%HP","status":%ST,"bytes":%B,"duration":%Ta,"backend":"%s","tls":"%sslv","user":"%[var(txn.sub)]"}}'
  capture request header Host len 64
  http-request deny deny_status 403 unless {{ src -f {material.cidrs} }}
  http-request del-header x-user
  http-request del-header x-roles
  http-request del-header x-client
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
  http-request set-var(txn.aud) var(txn.bearer),jwt_payload_query('$.aud')
  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
  http-request set-var(txn.sub) var(txn.bearer),jwt_payload_query('$.sub')
  http-request set-var(txn.scope) var(txn.bearer),jwt_payload_query('$.scope')
  http-request set-var(txn.client) var(txn.bearer),jwt_payload_query('$.client_id')
  http-request set-var(txn.roles) var(txn.bearer),jwt_payload_query('$.roles')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str {scenario.token} }}
  http-request deny deny_status 401 unless {{ var(txn.iss) -m str {ISSUER} }}
  http-request deny deny_status 401 unless {{ var(txn.aud) -m str {AUDIENCE} }}
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(txn.alg,"{public}") -m int 1 }}
  http-request deny deny_status 403 unless {{ var(txn.scope) -m reg (^|\\ ){SCOPE}(\\ |$) }}
  http-request set-header x-user %[var(txn.sub)]
  http-request set-header x-roles %[var(txn.roles)]
  http-request set-header x-client %[var(txn.client)]
  http-request del-header authorization"""
        verified = f" ssl verify required ca-file {material.backend_ca} sni str({HOST}) verifyhost {HOST}" if scenario.backend_tls else ""
        servers = "\n".join(f"  server s{index} {address}{verified}" for index, address in enumerate(place.backends()))
        others = ""
        if place.other_paths():
            routes = folder / "routes.map"
            routes.write_text("".join(f"{path} upstream\n" for path in place.other_paths()))
            others = f"\n  use_backend %[path,map_beg({routes})] if {{ path,map_beg({routes}) -m found }}"
        conf = f"""
global
  nbthread {scenario.threads}
  maxconn {max(8192, scenario.idle + 256)}
  # It wants two files for each connection; idle ones need one.
  no strict-limits
  tune.ssl.default-dh-param 2048
  ssl-default-bind-options ssl-min-ver TLSv1.2 prefer-client-ciphers
defaults
  mode http
  timeout connect 2s
  timeout client 600s
  timeout server 30s
  timeout http-request 10s
  timeout http-keep-alive 600s
  option http-keep-alive
  http-reuse always
frontend edge
  bind 127.0.0.1:{port}{tls}
  unique-id-format %[uuid()]
  unique-id-header x-request-id
  http-response set-header x-request-id %[unique-id]
  http-request set-header x-forwarded-for %[src]
  http-request set-header x-forwarded-proto {"https" if scenario.tls else "http"}
  http-request set-header x-forwarded-host %[req.hdr(host)]{chain}{others}
  default_backend upstream
backend upstream
{servers}
"""
        path = folder / "haproxy.cfg"
        path.write_text(conf)
        # In the foreground, without a master: one process.
        return [self.program, "-db", "-f", path]


def upstream(children: Children, folder: Path, gateway: str, cpus, made: Material, addresses: int = 1) -> tuple:
    """What all of them forward to: nginx with files, or the gateway's own answers. Gives its ports, plain and with TLS, and which it is.

    It listens on so many addresses as there are backends in the scenario that has most.
    """
    folder.mkdir(parents=True)
    port, tls_port = free_port(), free_port()
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program:
        listens = "\n".join(f"    listen {backend_address(index)}:{port} backlog=4096;" for index in range(addresses))
        files = folder / "files"
        files.mkdir()
        for size in SIZES:
            (files / str(size)).write_bytes(b"x" * size)
        conf = f"""
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  {temporary(folder)}
  sendfile on;
  tcp_nopush on;
  open_file_cache max=16;
  open_file_cache_valid 600s;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  server {{
{listens}
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    ssl_certificate {made.backend_cert};
    ssl_certificate_key {made.backend_key};
    ssl_protocols TLSv1.2 TLSv1.3;
    root {files};
    # What it was told, for the check before the measurement.
    location = /told {{ return 200 "$http_x_user|$http_authorization"; }}
  }}
}}
"""
        command, which = nginx_command(program, folder, conf), "nginx serving files"
    else:
        if addresses > 1:
            raise Failure("a scenario with several backends needs nginx as its upstream")
        routes = [
            {"name": f"r{size}", "match": {"path_exact": f"/{size}"}, "respond": {"status": 200, "body": "x" * size}}
            for size in SIZES
        ]
        path = folder / "portcullis.yaml"
        path.write_text(json.dumps({"listeners": [
            {"name": "up", "address": f"127.0.0.1:{port}"},
            {"name": "up-tls", "address": f"127.0.0.1:{tls_port}",
             "tls": {"certificates": [{"cert": str(made.backend_cert), "key": str(made.backend_key)}], "alpn": ["http/1.1"]}},
        ], "routes": routes}))
        command, which = [gateway, "run", "--config", path, "--threads", "1", "--no-watch"], "the gateway's `respond` (no nginx here)"
    children.start("upstream", command, folder, cpus).wait_for(port)
    return (port, tls_port), which


def nginx_command(program: str, folder: Path, conf: str) -> list:
    path = folder / "nginx.conf"
    # As root its workers would be another user, who cannot read our folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    path.write_text(f"{user}daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log warn;\n{conf}")
    return [program, "-p", folder, "-c", path, "-e", folder / "error.log"]


def temporary(folder: Path) -> str:
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def numbers(version: str) -> tuple:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if not found:
        raise Failure(f"no version number in `{version}`")
    return tuple(int(part or 0) for part in found.groups())


def output(program: str, *arguments: str) -> str:
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise Failure(f"{program} {' '.join(arguments)} failed: {result.stderr.strip()}")
    return result.stdout + result.stderr


def present(gateway: str) -> tuple:
    """Those that are on this machine, the gateway first, and a word for each that is not."""
    found, missing = [Gateway(gateway)], []
    for kind in (Nginx, Haproxy):
        # Some systems keep them where only root's PATH looks.
        program = shutil.which(kind.name) or shutil.which(kind.name, path="/usr/sbin:/usr/local/sbin")
        if program:
            found.append(kind(program))
        else:
            missing.append(f"{kind.name} is not installed: it is left out")
    return found, missing
