#!/usr/bin/env bash
# The figures of BENCHMARKS.md on Kubernetes: the suites of tests/e2e with images of the release build,
# each scenario as often as its figure says; their words are left in target/bench/kubernetes.log.
# Arguments are passed to the suites: a name runs those alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tests/setup.sh kube
tests/setup.sh clients
tests/kube/build.sh
tests/clients/build.sh
tests/kube/images.sh release --next
mkdir -p target/bench
export SHOAL_IMAGES=release E2E_FLAPS=${E2E_FLAPS:-10} E2E_KILLS=${E2E_KILLS:-20} E2E_RATE=${E2E_RATE:-500}
{
  echo "$(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
  echo "$(date -u +%F), commit $(git rev-parse --short=12 HEAD); E2E_FLAPS=$E2E_FLAPS E2E_KILLS=$E2E_KILLS E2E_RATE=$E2E_RATE"
  cargo test --quiet --package shoal-tests --features shoal-worker/mutants --test e2e -- --nocapture --test-threads=1 "$@"
  # The whole story, with enough of it for 100,000 calls.
  if [ $# = 0 ]; then
    # As the images are built, so that nothing is built twice.
    . tests/kube/reproducible.sh
    cargo build --quiet --release --bin shoal-kube-demo
    target/release/shoal-kube-demo --rounds "${DEMO_ROUNDS:-12}"
  fi
} 2>&1 | tee target/bench/kubernetes.log
