#!/usr/bin/env bash
# Rust is given; a build also needs cmake (for zlib-ng) and a C compiler. Installs them where it may, or names them.
set -euo pipefail

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v cc >/dev/null || missing+=(gcc)
[ ${#missing[@]} -eq 0 ] && exit 0

echo "needed to build and not here: ${missing[*]}"
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
  sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "install them, for example: sudo apt install ${missing[*]} | sudo dnf install ${missing[*]} | brew install ${missing[*]}"
  exit 1
fi
