#!/usr/bin/env bash
# The release, optimised by what a training load shows: some 18 % fewer instructions for a request than `cargo build --release`.
#
# The gateway is built with counters, serves the scenarios of benches/compare by itself, and is built again with what was
# counted (https://doc.rust-lang.org/rustc/profile-guided-optimization.html). Needs, beside Rust: llvm-profdata of the same
# LLVM as rustc's, python3, openssl, h2load and wrk. Two release builds: ten minutes and more.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/tools.sh

version=$(rustc -vV)
host=$(sed -n 's/^host: //p' <<<"$version")
llvm=$(sed -n 's/^LLVM version: \([0-9]*\).*/\1/p' <<<"$version")

# Another LLVM does not read what this one's counters write.
profdata=
for candidate in "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$llvm" llvm-profdata; do
    if "$candidate" merge --version 2>/dev/null | grep -q "LLVM version $llvm\." || "$candidate" --version 2>/dev/null | grep -q "LLVM version $llvm\."; then
        profdata=$candidate
        break
    fi
done
missing=()
[ -n "$profdata" ] || missing+=("llvm-profdata $llvm (\`rustup component add llvm-tools\`, or the package llvm-$llvm)")
command -v python3 >/dev/null || missing+=(python3)
command -v openssl >/dev/null || missing+=(openssl)
command -v h2load >/dev/null || missing+=("h2load (package nghttp2-client)")
command -v wrk >/dev/null || missing+=(wrk)
if [ ${#missing[@]} -gt 0 ]; then
    echo "release: needed for the training and not here:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    echo "Without it: cargo build --release -p portcullis" >&2
    exit 2
fi

target=${CARGO_TARGET_DIR:-$root/target}
counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT

# With a target named, build scripts and macros are not counted.
echo "release: building with counters"
RUSTFLAGS="-Cprofile-generate=$counts/raw" CARGO_TARGET_DIR=$target/counting \
    cargo build --release --locked --target "$host" -p portcullis

echo "release: training"
LLVM_PROFILE_FILE=$counts/raw/%p.profraw benches/compare/run.sh --alone --rounds 1 --seconds "${TRAINING_SECONDS:-2}" \
    --only plain-3,plain-20,plain-64k,tls-h1,tls-h2,tls-new,chain-rs256,chain-es256,verify-rs256,idle-plain \
    --binary "$target/counting/$host/release/portcullis" --out "$counts/compare" >/dev/null
"$profdata" merge -o "$counts/merged" "$counts"/raw/*.profraw

echo "release: building with what was counted"
RUSTFLAGS="-Cprofile-use=$counts/merged" CARGO_TARGET_DIR=$target/counted \
    cargo build --release --locked --target "$host" -p portcullis
install -D -m 0755 "$target/counted/$host/release/portcullis" "$target/dist/portcullis"
echo "release: $target/dist/portcullis"
