#!/usr/bin/env bash
# Builds the release binary and prints what the demo's story measures on this machine.
# The other suites behind BENCHMARKS.md are still to come.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet --bin shoal
echo "machine: $(nproc) cores, $(uname -sr), $(date -u +%F)"
target/release/shoal dev --demo --plain | tail -n 3
