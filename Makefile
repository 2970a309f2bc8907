# vmd for Linux. "make help" lists the targets.
#
# demo, test and bench do all their own set-up on Debian: packages, a Rust toolchain where none is on PATH, the lab.

TARGET  = x86_64-unknown-linux-gnu
OUT     = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release
PREFIX  = /usr/local
DESTDIR =
# The release of the systemd that the unit is for: this machine's.
SYSTEMD = $(shell systemctl --version 2>/dev/null | awk 'NR == 1 { print int($$2) }')
comma = ,
# Backing off between restarts came with 254; an older systemd would complain of unknown words.
UNIT_LEAVES_OUT = $(if $(filter 1,$(shell [ "$(or $(SYSTEMD),0)" -ge 254 ] && echo 1)),,-e '/^\# Longer each time/$(comma)/^RestartMaxDelaySec=/d')

# What the end-to-end tests are told: which binaries to test, where to note labs that failed, and where to count calls.
TEST_ENV = VMD_BIN_DIR="$(abspath $(OUT))" VMD_LAB_FAULTS="$(abspath $(OUT))/lab-faults" \
	VMD_LAB_CALLS="$(abspath $(OUT))/lab-calls"

.PHONY: build help demo test test-long check bench deny lab install uninstall deb clean

build: ## vmd and vmctl, release, static
	scripts/prepare build
	cargo build --release --locked

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: build lab ## boot a Debian kernel under vmd and show it
	cargo build --release --locked -p testkit
	scripts/demo "$(abspath $(OUT))"

test: build lab ## every test, unit to end-to-end; at most 50 minutes on 2 processors
	scripts/prepare test
	$(TEST_ENV) scripts/rooted scripts/run-tests

test-long: build lab ## beside test: repetitions, long walks, fuzzing and every mutant; a day. PARTS="..." for some of them
	scripts/prepare test
	$(TEST_ENV) scripts/rooted scripts/test-long "$(abspath $(OUT))/test-long.log" $(PARTS)

check: ## the quick loop: format, lints, unit tests
	scripts/prepare build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --exclude e2e --locked
	@if command -v shellcheck >/dev/null; then shellcheck $$(grep -lE '^#!/bin/(ba)?sh|^#!/bin/busybox sh' scripts/* .ci/*); fi

bench: build lab ## figures against QEMU, as a table
	cargo build --release --locked -p testkit
	VMD_BIN_DIR="$(abspath $(OUT))" scripts/on-kvm -m 2048 -t 1500 -- "$(abspath $(OUT))/bench"
	VMD_BIN_DIR="$(abspath $(OUT))" scripts/bench-many "$(abspath $(OUT))/bench"
	VMD_BIN_DIR="$(abspath $(OUT))" "$(abspath $(OUT))/bench" disk

deny: ## licences and sources of all dependencies
	scripts/prepare build
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else cargo test --locked -p e2e --test dependencies; fi

lab: ## prepare the machine and the guests of the end-to-end tests
	scripts/lab setup

install: ## programs, manuals, unit and the rest of a package, below $(DESTDIR)$(PREFIX)
	install -D -m 755 $(OUT)/vmd $(DESTDIR)$(PREFIX)/sbin/vmd
	install -D -m 755 $(OUT)/vmctl $(DESTDIR)$(PREFIX)/bin/vmctl
	install -D -m 644 examples/vm.conf $(DESTDIR)$(PREFIX)/share/vmd/examples/vm.conf
	install -D -m 644 man/vmd.8 $(DESTDIR)$(PREFIX)/share/man/man8/vmd.8
	install -D -m 644 man/vmctl.8 $(DESTDIR)$(PREFIX)/share/man/man8/vmctl.8
	install -D -m 644 man/vm.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/vm.conf.5
	install -D -m 644 packaging/vmd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/vmd.conf
	install -D -m 644 packaging/vmd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/vmd.conf
	install -D -m 644 packaging/00-vmd.network $(DESTDIR)$(PREFIX)/lib/systemd/network/00-vmd.network
	install -D -m 644 packaging/vmd.networkmanager $(DESTDIR)$(PREFIX)/lib/NetworkManager/conf.d/00-vmd.conf
	install -D -m 644 packaging/vmd.udev $(DESTDIR)$(PREFIX)/lib/udev/rules.d/81-vmd.rules
	install -D -m 644 packaging/completions/vmctl.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmctl
	install -D -m 644 packaging/completions/vmctl.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vmctl
	install -D -m 644 packaging/completions/vmctl.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vmctl.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed -e 's|@PREFIX@|$(PREFIX)|' $(UNIT_LEAVES_OUT) packaging/vmd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/vmd.service
	@echo 'vmd needs an account: systemd-sysusers, or useradd --system --no-create-home --shell /usr/sbin/nologin _vmd'

# What "install" puts below the prefix. Of directories only its own goes: others may use the rest.
INSTALLED = sbin/vmd bin/vmctl share/vmd/examples/vm.conf share/man/man8/vmd.8 share/man/man8/vmctl.8 share/man/man5/vm.conf.5 \
	lib/sysusers.d/vmd.conf lib/tmpfiles.d/vmd.conf lib/systemd/system/vmd.service \
	lib/systemd/network/00-vmd.network lib/NetworkManager/conf.d/00-vmd.conf lib/udev/rules.d/81-vmd.rules \
	lib/systemd/network/00-vmd.network lib/NetworkManager/conf.d/00-vmd.conf lib/udev/rules.d/81-vmd.rules \
	share/bash-completion/completions/vmctl share/zsh/site-functions/_vmctl share/fish/vendor_completions.d/vmctl.fish

uninstall: ## removes what "install" put there; first: systemctl disable --now vmd
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(INSTALLED))
	for dir in share/vmd/examples share/vmd; do [ ! -d $(DESTDIR)$(PREFIX)/$$dir ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/$$dir; done
	@echo 'what stays: /etc/vm.conf, the numbers of VMs in /var/lib/vmd, the account _vmd'

deb: build ## a Debian package, in target/
	scripts/deb "$(abspath $(OUT))" target $(REVISION)

clean: ## what was built here; the lab's cache stays
	cargo clean
