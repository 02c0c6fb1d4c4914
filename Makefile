# `make demo` shows the product, `make test` runs every test. Both work on a machine that has only Rust.
SHELL := /bin/bash
.DEFAULT_GOAL := help
TEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run $(if $(CI),--profile ci)" || echo "test")

.PHONY: help demo test check reference release bench tools peers

help: ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: tools ## The whole product on this machine, explained
	cargo run -q -p portcullis -- demo

test: tools peers ## Every test; those against real peers run when the peer is there
	cargo $(TEST) --workspace --no-fail-fast
	PORTCULLIS_TEST_DRIVER=pingora PORTCULLIS_TEST_PARK=0 cargo $(TEST) -p portcullis --test e2e --no-fail-fast
	cargo test --workspace --doc
	@if command -v python3 >/dev/null; then python3 -m unittest discover -q -s benches/compare; else echo "python3 is not here: the comparison's own tests are skipped"; fi

check: tools ## What CI checks besides the tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	scripts/reference.sh --check

reference: tools ## Write docs/reference anew from the types
	scripts/reference.sh

release: ## The binary to ship, optimised by a training load: target/dist/portcullis
	scripts/release.sh

bench: tools ## The comparison with nginx and HAProxy on this machine
	benches/compare/run.sh

tools:
	@scripts/tools.sh

peers:
	@scripts/test-peers.sh
