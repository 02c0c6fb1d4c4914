"""What is compared: each scenario is one kind of request, and what each proxy is asked to do with it."""

from dataclasses import dataclass

HOST = "bench.test"

# With `Host` and `User-Agent`, which every load generator sends, this makes three fields.
FEW = {"accept": "*/*"}

# Seventeen more: what a browser sends with a call to an API.
MANY = FEW | {
    "accept-language": "en-GB,en;q=0.9,de;q=0.8",
    "accept-encoding": "identity",
    "cache-control": "no-cache",
    "pragma": "no-cache",
    "dnt": "1",
    "origin": "https://app.bench.test",
    "referer": "https://app.bench.test/orders/2024/list?page=3&sort=created",
    "sec-ch-ua": '"Chromium";v="130", "Not?A_Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "sec-fetch-dest": "empty",
    "sec-fetch-mode": "cors",
    "sec-fetch-site": "same-site",
    "x-requested-with": "XMLHttpRequest",
    "x-correlation-id": "5f1b7c0e-6a62-4f0e-9a3f-0d6a3a1f7b11",
    "cookie": "session=7b1e0f6c9a4d4c5f8e2a; theme=dark; region=eu-central-1; consent=1",
    "priority": "u=1, i",
}


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    headers: dict
    size: int = 1024
    tls: bool = False
    http2: bool = False
    new_connections: bool = False
    # The signature algorithm of the tokens: of the whole chain, if nothing else is said.
    token: str = ""
    # Not the whole chain, but verification alone, with so many issuers to choose from.
    issuers: int = 0
    # Not the whole chain, but an address rule alone, of so many networks.
    networks: int = 0
    # All else that the gateway can do is configured, for other routes than the one of the load.
    features: bool = False
    # The gateway verifies each token each time, as HAProxy does.
    forgetful: bool = False
    # Of the proxy: threads, or workers.
    threads: int = 1
    # Routes of the proxy. The load is for one of them.
    routes: int = 1
    # Backends of the proxy: that many addresses of the one upstream.
    backends: int = 1
    # Backends are spoken to over TLS, and verified.
    backend_tls: bool = False
    # Connections that wait beside the load.
    idle: int = 0

    @property
    def path(self) -> str:
        return f"/{self.size}"

    @property
    def chain(self) -> bool:
        return bool(self.token) and not self.issuers


SCENARIOS = [
    Scenario("plain-3", "plain h1, 1 KiB, 3 request headers", FEW),
    Scenario("plain-20", "plain h1, 1 KiB, 20 request headers", MANY),
    Scenario("plain-64k", "plain h1, 64 KiB", FEW, size=65536),
    Scenario("tls-h1", "TLS h1, 1 KiB", FEW, tls=True),
    Scenario("tls-h2", "TLS h2, 1 KiB", FEW, tls=True, http2=True),
    Scenario("tls-new", "a new TLS connection for each request", FEW, tls=True, new_connections=True),
    Scenario("https-backend", "plain h1, 1 KiB, TLS to the backend", FEW, backend_tls=True),
    Scenario("chain-rs256", "whole chain on TLS h1, RS256 tokens", FEW, tls=True, token="RS256"),
    Scenario("chain-es256", "whole chain on TLS h1, ES256 tokens", FEW, tls=True, token="ES256"),
    Scenario("verify-rs256", "the same, RS256, nothing remembered", FEW, tls=True, token="RS256", forgetful=True),
    Scenario("verify-es256", "the same, ES256, nothing remembered", FEW, tls=True, token="ES256", forgetful=True),
    Scenario("two-threads", "plain h1, 1 KiB, two threads", FEW, threads=2),
    Scenario("routes-10k", "plain h1, 1 KiB, 10,000 routes", FEW, routes=10_000),
    Scenario("backends-1k", "plain h1, 1 KiB, 1,000 backends", FEW, backends=1_000),
    Scenario("cidrs-10", "plain h1, 1 KiB, a rule of 10 networks", FEW, networks=10),
    Scenario("cidrs-1m", "plain h1, 1 KiB, a rule of 1,000,000 networks", FEW, networks=1_000_000),
    Scenario("issuers-1", "plain h1, 1 KiB, RS256 tokens of 1 issuer", FEW, token="RS256", issuers=1),
    Scenario("issuers-100", "plain h1, 1 KiB, RS256 tokens, 100 issuers", FEW, token="RS256", issuers=100),
    Scenario("features", "plain h1, 1 KiB, everything else configured for other routes", FEW, features=True),
    Scenario("idle-plain", "plain h1, 1 KiB, beside 10,000 idle connections", FEW, idle=10_000),
    # Fewer: this end of a TLS connection takes memory too.
    Scenario("idle-tls", "TLS h1, 1 KiB, beside 2,000 idle connections", FEW, tls=True, idle=2_000),
]

# What each of these costs more than the other is the figure: one thing differs.
BESIDE = {
    "two-threads": "plain-3", "routes-10k": "plain-3", "backends-1k": "plain-3", "cidrs-1m": "cidrs-10", "issuers-100": "issuers-1",
    "features": "plain-3", "idle-plain": "plain-3", "idle-tls": "tls-h1",
}
