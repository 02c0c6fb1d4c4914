"""Glewlwyd on a free port of this machine, set up through its own API, for the tests.

Prints one line of JSON about itself when it serves. On standard input, `rotate` gives it a new key (answered by a line), and
the end ends it.
"""

import gzip
import json
import pathlib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SCHEMA = "/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz"
MODULES = "/usr/lib/glewlwyd"
# The administrator that the schema brings.
ADMIN = {"username": "admin", "password": "password"}
AUDIENCE = "https://api.example.test/rs256"
SCOPE = "api:read"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def key_pair():
    private = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(["openssl", "rsa", "-pubout"], input=private, capture_output=True, text=True, check=True).stdout
    return {"key": private, "cert": public}


class Api:
    def __init__(self, base):
        self.base = base
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def call(self, method, path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        with self.opener.open(request, timeout=10):
            pass


def configuration(folder, port):
    return f"""
port={port}
bind_address="127.0.0.1"
external_url="http://127.0.0.1:{port}"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="ERROR"
cookie_secure=0
session_expiration=2419200
session_key="session"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="{MODULES}/user"
client_module_path="{MODULES}/client"
user_auth_scheme_module_path="{MODULES}/scheme"
plugin_module_path="{MODULES}/plugin"
hash_algorithm="SHA512"
database={{ type="sqlite3" path="{folder}/glewlwyd.db" }};
"""


def plugin(issuer, pair):
    return {
        "module": "oidc",
        "name": "oidc",
        "display_name": "OpenID Connect",
        "parameters": {
            "iss": issuer,
            "jwt-type": "rsa",
            "jwt-key-size": "256",
            **pair,
            "access-token-duration": 300,
            "refresh-token-duration": 3600,
            "code-duration": 600,
            "refresh-token-rolling": True,
            "allow-non-oidc": True,
            "auth-type-code-enabled": True,
            "auth-type-token-enabled": True,
            "auth-type-id-token-enabled": True,
            "auth-type-none-enabled": True,
            "auth-type-password-enabled": False,
            "auth-type-client-enabled": True,
            "auth-type-refresh-enabled": True,
            "scope": [],
            "additional-parameters": [],
            "claims": [],
            "name-claim": "no",
            "email-claim": "no",
            "scope-claim": "no",
            "address-claim": {"type": "no"},
            "jwks-show": True,
            "introspection-revocation-allowed": True,
            "introspection-revocation-auth-scope": [],
            "introspection-revocation-allow-target-client": True,
            "subject-type": "public",
            "request-parameter-allow": False,
            "resource-allowed": True,
            "resource-scope": {SCOPE: [AUDIENCE]},
            "resource-client-property": "resource",
        },
    }


CLIENT = {
    "client_id": "m2m",
    "name": "m2m",
    "confidential": True,
    "password": "m2m-secret",
    "client_secret": "m2m-secret",
    "enabled": True,
    "scope": [SCOPE],
    "authorization_type": ["client_credentials"],
    "token_endpoint_auth_method": ["client_secret_basic"],
    "redirect_uri": [],
    "resource": [AUDIENCE],
}


def sign_in(api, server):
    deadline = time.monotonic() + 20
    while True:
        try:
            return api.call("POST", "/auth/", ADMIN)
        except urllib.error.URLError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main():
    port = free_port()
    issuer = f"http://127.0.0.1:{port}/api/oidc"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        database = sqlite3.connect(folder / "glewlwyd.db")
        database.executescript(gzip.open(SCHEMA, "rt").read())
        database.close()
        (folder / "glewlwyd.conf").write_text(configuration(folder, port))
        # Its log goes to standard output, which is ours to speak on.
        server = subprocess.Popen(["glewlwyd", "-c", str(folder / "glewlwyd.conf")], stdin=subprocess.DEVNULL, stdout=sys.stderr)
        try:
            api = Api(f"http://127.0.0.1:{port}/api")
            sign_in(api, server)
            api.call("POST", "/scope/", {"name": SCOPE, "display_name": SCOPE, "password_required": False, "scheme": {}})
            api.call("POST", "/mod/plugin/", plugin(issuer, key_pair()))
            api.call("POST", "/client/?source=database", CLIENT)
            about = {"issuer": issuer, "token_endpoint": f"{issuer}/token", "introspection_endpoint": f"{issuer}/introspect"}
            print(json.dumps(about), flush=True)
            for line in sys.stdin:
                if line.strip() == "rotate":
                    api.call("PUT", "/mod/plugin/oidc", plugin(issuer, key_pair()))
                    api.call("PUT", "/mod/plugin/oidc/reset", {})
                    print("{}", flush=True)
        finally:
            server.terminate()
            server.wait()


main()
