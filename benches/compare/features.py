"""A configuration in which everything is set that a request could need and the load does not: what it costs to have it there."""

import json
import os
from pathlib import Path

from material import AUDIENCE, ISSUER, Material, address_lists


def with_everything(config: dict, made: Material, folder: Path, admin_port: int) -> None:
    cidrs, _ = address_lists(folder, 10_000)
    keys = folder / "keys.jwks"
    keys.write_text(json.dumps({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "any", "use": "sig", "alg": "ES256",
        # The example key of RFC 7515, appendix A.3. Nothing is signed with it.
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }]}))
    api_keys = folder / "api-keys.txt"
    api_keys.write_text("")
    os.chmod(api_keys, 0o600)
    config |= {
        "admin": {"address": f"127.0.0.1:{admin_port}", "decisions": 1000},
        "audit_log": {"path": str(folder / "audit.jsonl"), "decisions": "denials", "on_failure": "drop"},
        "trusted_proxies": ["192.0.2.0/24", "2001:db8::/32"],
        "issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["ES256"], "jwks_file": str(keys)}},
    }
    upstream = {"pool": "upstream"}
    config["routes"] += [
        {"name": "tokens", "match": {"path": "/never/tokens"}, "filters": [
            {"cors": {"origins": ["https://app.bench.test"], "headers": ["authorization"]}},
            {"ip_allow": {"list": str(cidrs)}},
            {"oidc": {"issuer": "main", "scopes": ["orders:read"]}},
            {"authorize": {"expression": "principal.claims.tenant == 'acme'"}},
            {"rate_limit": {"key": "principal.sub", "rate": "100/s", "quota": "5000/day"}},
            {"identity_headers": {"headers": {"x-user": "sub", "x-roles": "roles"}}},
        ]} | upstream,
        {"name": "either", "match": {"path": "/never/either"}, "filters": [
            {"debug": {"allow": ["10.0.0.0/8"]}},
            {"any_of": [{"oidc": {"issuer": "main"}}, {"api_key": {"file": str(api_keys)}}]},
            {"rate_limit": {"key": "client", "rate": "10/s"}, "mode": "shadow"},
        ]} | upstream,
        {"name": "edited", "match": {"path": "/never/edited"}, "filters": [
            {"request_id": {}},
            {"headers": {"request": {"remove": ["x-debug"]}, "response": {"set": {"x-content-type-options": "nosniff"}}}},
        ]} | upstream,
        {"name": "asked", "match": {"path": "/never/asked"}, "filters": [
            {"external_authorize": {"url": "http://127.0.0.1:9/check"}},
        ]} | upstream,
    ]
