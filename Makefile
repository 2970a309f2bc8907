# vmd for Linux. "make help" lists the targets.
#
# demo, test and bench do all their own set-up on Debian: packages, a Rust toolchain where none is on PATH, the lab.

TARGET  = x86_64-unknown-linux-gnu
OUT     = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release
PREFIX  = /usr/local
DESTDIR =

# What the end-to-end tests are told: which binaries to test, and where to note labs that failed.
TEST_ENV = VMD_BIN_DIR="$(abspath $(OUT))" VMD_LAB_FAULTS="$(abspath $(OUT))/lab-faults"

.PHONY: build help demo test check bench deny lab install clean

build: ## vmd and vmctl, release, static
	scripts/prepare build
	cargo build --release --locked

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: build lab ## boot a Debian kernel under vmd and show it
	cargo build --release --locked -p testkit
	scripts/demo "$(abspath $(OUT))"

test: build lab ## every test, unit to end-to-end; at most 40 minutes on 2 processors
	$(TEST_ENV) scripts/rooted scripts/run-tests

check: ## the quick loop: format, lints, unit tests
	scripts/prepare build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --exclude e2e --locked
	@if command -v shellcheck >/dev/null; then shellcheck $$(grep -lE '^#!/bin/(ba)?sh|^#!/bin/busybox sh' scripts/* .ci/*); fi

bench: build lab ## figures against QEMU, as a table
	cargo build --release --locked -p testkit
	VMD_BIN_DIR="$(abspath $(OUT))" scripts/on-kvm -m 2048 -t 1500 -- "$(abspath $(OUT))/bench"

deny: ## licences and sources of all dependencies
	scripts/prepare build
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else cargo test --locked -p e2e --test dependencies; fi

lab: ## prepare the machine and the guests of the end-to-end tests
	scripts/lab setup

install: ## vmd, vmctl and the example, below $(DESTDIR)$(PREFIX)
	install -D -m 755 $(OUT)/vmd $(DESTDIR)$(PREFIX)/sbin/vmd
	install -D -m 755 $(OUT)/vmctl $(DESTDIR)$(PREFIX)/sbin/vmctl
	install -D -m 644 examples/vm.conf $(DESTDIR)$(PREFIX)/share/vmd/examples/vm.conf
	@echo 'vmd needs an account: useradd --system --no-create-home --shell /usr/sbin/nologin _vmd'

clean: ## what was built here; the lab's cache stays
	cargo clean
