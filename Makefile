# The commands of the README. `verify` never writes; `fix` does what it would ask for.
CARGO ?= cargo
# All but `sim`: with it no worker of the same build runs on a real machine.
FEATURES := --features shoal-worker/mutants,shoal-worker/next
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MINUTES ?= 30
.PHONY: demo images kube-demo test verify fix bench kube-bench reproduce mutants sim soak sweep setup help

help:
	@printf 'make demo    a cluster on this machine, driven, grown, drained, rolled, killed: a verdict\n'
	@printf 'make kube-demo  the same on Kubernetes, of this machine or named by SHOAL_TEST_KUBECONFIG\n'
	@printf 'make images  worker and operator as OCI archives, in target/images/release\n'
	@printf 'make reproduce  the images once more from another directory: the same bytes?\n'
	@printf 'make test    everything\nmake verify  formatting and lints, writes nothing\nmake fix     formats and applies lints\n'
	@printf 'make bench   the figures of BENCHMARKS.md; ONLY="kill-leader form" takes those alone\n'
	@printf 'make kube-bench  the figures of BENCHMARKS.md on Kubernetes\n'
	@printf 'make sweep   every write of the operator with every fault, long outages, more seeds\n'
	@printf 'make mutants every rule of the protocol left out on purpose, and the suite that notices\n'
	@printf 'make soak    a fault every ten seconds on real processes: MINUTES=30\n'
	@printf 'make sim     more seeds of the simulated machines and whole clusters: SEEDS=2000 SEED_BASE=0\n'

setup:
	@tests/setup.sh

demo: setup
	@$(CARGO) build --release --quiet --bin shoal
	@target/release/shoal dev --demo

images: setup
	@tests/kube/images.sh release

reproduce: setup
	@tests/kube/reproduce.sh

kube-demo: setup
	@tests/setup.sh kube
	@tests/setup.sh clients
	@tests/clients/build.sh
	@tests/kube/images.sh release --next
	@. tests/kube/reproducible.sh && $(CARGO) build --release --quiet --bin shoal-kube-demo
	@target/release/shoal-kube-demo

test: setup
	@tests/run.sh

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --package shoal-sim --all-targets --features sim -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else echo 'cargo-deny is not installed: licences and sources were not checked'; fi

fix:
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets $(FEATURES) --fix --allow-dirty --allow-staged

bench: setup
	@tests/bench.sh $(ONLY)

# What the suites on Kubernetes print, of release builds and repeated as often as the figures say.
kube-bench: setup
	@tests/kube/bench.sh

# A fault every ten seconds on processes in network namespaces, and longer loops of damaged bytes.
soak: setup
	@tests/setup.sh faults
	tests/faults/next.sh
	$(CARGO) build --release --bin shoal --bin shoal-soak --bin shoal-stored
	target/release/shoal-soak --minutes $(MINUTES) --every 10s --shoal target/release/shoal
	FUZZ_SECONDS=$(MINUTES) $(CARGO) test --package shoal-fuzz --features shoal-worker/mutants -- --nocapture

# The suites of the operator in their long forms; takes about an hour.
sweep: export SHOAL_SWEEP = 1
sweep: setup
	@tests/kube/build.sh
	$(CARGO) test --package shoal-tests --test operator -- --nocapture --test-threads=1

# Each rule of the protocol that is left out on purpose, and who notices.
mutants: setup
	@tests/mutants.sh

# A seed that fails prints the command that repeats it alone.
sim: export SEEDS ?= 2000
sim: export SEED_BASE ?= 0
sim:
	$(CARGO) test --package shoal-tests --test machines no_seed -- --nocapture
	$(CARGO) build --release --package shoal-sim --features sim
	target/release/shoal-sim many --seeds $(SEEDS) --base $(SEED_BASE) --seconds 60
