#!/bin/sh
# Installs what the tests against real peers need: oidc-provider and jose (npm) into target/peers, and nginx, haproxy and
# curl (apt, when run as root). With CI=true also two identity providers of other makes: Glewlwyd (apt) and Django OAuth
# Toolkit (pip, in an environment of its own in target/peers); nobody's own machine is to get a sign-on server by a test.
# Safe to run again. What cannot be installed is named, and the exit code is 1.
#
#   PEERS_DIR   where the npm and pip packages go; default: target/peers beside this script's folder
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
peers=${PEERS_DIR:-$root/target/peers}
missing=""

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

install_debian() { # package...
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    # The package lists of a fresh machine are empty.
    apt-get update -qq >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

for program in nginx haproxy curl; do
    have "$program" || install_debian "$program" || missing="$missing $program"
done
have node || install_debian nodejs || missing="$missing node"
have npm || install_debian npm || missing="$missing npm"

if have npm && have node; then
    # The newest of these majors that run on Node 20.
    if [ -d "$peers/node_modules/oidc-provider" ] && [ -d "$peers/node_modules/jose" ]; then
        echo "npm packages are in $peers"
    else
        mkdir -p "$peers"
        [ -f "$peers/package.json" ] || echo '{ "private": true }' >"$peers/package.json"
        echo "installing oidc-provider and jose into $peers"
        npm install --prefix "$peers" --no-fund --no-audit --loglevel=error "oidc-provider@^9" "jose@^6" ||
            missing="$missing oidc-provider jose"
    fi
else
    missing="$missing oidc-provider jose"
fi

if [ "${CI:-}" = true ]; then
    have openssl || install_debian openssl || missing="$missing openssl"
    have glewlwyd || install_debian glewlwyd || missing="$missing glewlwyd"
    if ! [ -x "$peers/django/bin/python" ] || ! "$peers/django/bin/python" -c "import oauth2_provider" 2>/dev/null; then
        echo "installing django-oauth-toolkit into $peers/django"
        { python3 -m venv "$peers/django" && "$peers/django/bin/pip" install -q "django-oauth-toolkit~=3.4"; } ||
            missing="$missing django-oauth-toolkit"
    fi
fi

if [ -n "$missing" ]; then
    echo "missing, and not to be installed here:$missing" >&2
    echo "tests that need them are skipped; with CI=true they fail" >&2
    exit 1
fi
echo "all test peers are here"
