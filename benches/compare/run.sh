#!/usr/bin/env bash
# The gateway beside nginx and HAProxy on this machine. Installs nothing: what is missing is named and left out.
#
#   benches/compare/run.sh                          the whole comparison, with a release build
#   PROFILE=bench-fast benches/compare/run.sh       the same with the build that links faster
#   benches/compare/run.sh --binary PATH --rounds 1 --requests 200 --only plain-3
#   benches/compare/run.sh --help
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

command -v python3 >/dev/null || { echo "compare: python3 (3.9 or later) is needed" >&2; exit 2; }

build=yes
for argument in "$@"; do
    case $argument in
        --binary | --binary=* | -h | --help | --list) build=no ;;
    esac
done
if [ "$build" = yes ]; then
    profile=${PROFILE:-release}
    target=${CARGO_TARGET_DIR:-$root/target}
    (cd "$root" && cargo build --profile "$profile" -p portcullis)
    set -- --binary "$target/$profile/portcullis" "$@"
fi
exec python3 "$here/main.py" "$@"
