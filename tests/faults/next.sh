#!/usr/bin/env bash
# Builds the version after this one for the faults that roll from one to the other, and leaves it
# in next/ of the build directory. What lies in debug/ afterwards is this version.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --bin shoal --features shoal-worker/mutants,shoal-worker/next
mkdir -p "$target/next"
cp "$target/debug/shoal" "$target/next/shoal.new"
mv "$target/next/shoal.new" "$target/next/shoal"
cargo build --quiet --bin shoal --features shoal-worker/mutants
