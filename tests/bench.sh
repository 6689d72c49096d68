#!/usr/bin/env bash
# The figures of BENCHMARKS.md on real processes of the release build; arguments are the names
# of the figures to take, none takes all. Results and tables are left in target/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p shoal-worker -p shoal-tests --bin shoal --bin shoal-figures
# Without the stock clients their two figures are unknown, the others are not.
[ ! -x tests/clients/build.sh ] || tests/clients/build.sh || echo "the stock clients do not build" >&2
exec target/release/shoal-figures "$@"
