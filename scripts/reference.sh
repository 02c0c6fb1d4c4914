#!/usr/bin/env bash
# Writes docs/reference from the types; with --check, says whether it is what the types say.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build -q -p portcullis
portcullis="$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/debug/portcullis"
target=docs/reference
if [ "${1:-}" = --check ]; then
  target="$(mktemp -d)"
  trap 'rm -rf "$target"' EXIT
fi
mkdir -p "$target"
"$portcullis" schema json > "$target/portcullis.schema.json"
"$portcullis" schema reference > "$target/configuration.md"
"$portcullis" schema reasons > "$target/reasons.md"
if [ "${1:-}" = --check ] && ! diff -ru docs/reference "$target"; then
  echo "docs/reference is not what the types say: run 'make reference' and commit it" >&2
  exit 1
fi
