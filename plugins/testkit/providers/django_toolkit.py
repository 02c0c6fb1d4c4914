"""Django OAuth Toolkit on a free port of this machine, for the tests: opaque tokens, and introspection (RFC 7662).

Prints one line of JSON about itself when it serves; the end of standard input ends it.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import types
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import include, path


def configure(folder):
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    settings.configure(
        SECRET_KEY="for tests only",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF="provider_urls",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(folder, "provider.db")}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True,
            "OIDC_RSA_PRIVATE_KEY": key,
            "SCOPES": {"api:read": "", "openid": "", "introspection": ""},
            "ACCESS_TOKEN_EXPIRE_SECONDS": 300,
        },
    )
    urls = types.ModuleType("provider_urls")
    sys.modules["provider_urls"] = urls
    django.setup()
    urls.urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def main():
    with tempfile.TemporaryDirectory() as folder:
        configure(folder)
        call_command("migrate", verbosity=0)
        from oauth2_provider.models import Application

        # `m2m` gets tokens, `rs` asks about them.
        for client in ("m2m", "rs"):
            Application.objects.create(
                client_id=client,
                client_secret=f"{client}-secret",
                client_type=Application.CLIENT_CONFIDENTIAL,
                authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
                algorithm=Application.RS256_ALGORITHM,
                name=client,
            )
        server = make_server("127.0.0.1", 0, get_wsgi_application(), Server, Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = f"http://127.0.0.1:{server.server_port}/o"
        about = {"issuer": issuer, "token_endpoint": f"{issuer}/token/", "introspection_endpoint": f"{issuer}/introspect/"}
        print(json.dumps({**about, "revocation_endpoint": f"{issuer}/revoke_token/"}), flush=True)
        sys.stdin.read()
        server.shutdown()


main()
