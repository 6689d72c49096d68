#!/usr/bin/env bash
# What suites need beyond the build of the workspace: the stock clients, the version after this one
# and the images of both, the fuzz loops. Replaces the worker in target/debug for a while.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/clients/build.sh
[ "$(id -u)" != 0 ] || tests/faults/next.sh
tests/kube/images.sh debug --next
cargo test --workspace --quiet --features shoal-worker/mutants --test decoders --no-run
