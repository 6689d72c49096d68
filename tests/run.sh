#!/usr/bin/env bash
# Everything, small: unit and property tests, repository rules, simulated machines, the model, whole
# clusters simulated, damaged bytes, clusters of real processes, faults on them, stock clients, the
# demo, and Kubernetes.
# Says how long each rung took and what was left out.
set -euo pipefail
cd "$(dirname "$0")/.."
features=(--features shoal-worker/mutants)
# With the targets of the fuzz loop every rung would build the worker once more.
all=(--workspace --exclude shoal-fuzz)

rung() {
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - began)) s"
}

rung "unit, property and repository tests" \
  cargo test "${all[@]}" --quiet "${features[@]}" --lib --bins --test tidy
rung "machines together, simulated" \
  cargo test "${all[@]}" --quiet "${features[@]}" --test machines
rung "model of sessions and moves, exhaustively" cargo test --quiet --package shoal-model
rung "whole clusters, simulated" cargo test --quiet --package shoal-sim --features sim
rung "every decoder under damaged bytes" \
  cargo test --quiet --package shoal-fuzz "${features[@]}"
rung "build of the command" cargo build --quiet --bin shoal "${features[@]}"
export SHOAL=$PWD/target/debug/shoal
rung "clusters of real processes" \
  cargo test "${all[@]}" --quiet "${features[@]}" --test cluster
rung "figures of scale at their smallest" \
  cargo run --quiet --package shoal-tests "${features[@]}" --bin shoal-figures -- \
  --small --shoal "$SHOAL" --out target/bench-small \
  scale-planner scale-registry scale-fencing scale-sessions scale-restart
if [ "$(id -u)" = 0 ]; then
  tests/setup.sh faults
  rung "build of the next version" tests/faults/next.sh
  rung "faults on processes in network namespaces" \
    cargo test "${all[@]}" --quiet "${features[@]}" --test faults -- --test-threads=1
fi
tests/setup.sh clients
rung "build of the stock clients" tests/clients/build.sh
rung "stock clients under planned changes" \
  cargo test "${all[@]}" --quiet "${features[@]}" --test clients -- --nocapture
if target/debug/shoal dev --help >/dev/null 2>&1; then
  rung "demo: planned changes fail nothing" target/debug/shoal dev --demo
  for fault in lose-increment stale-owner; do
    echo "== demo with $fault must fail"
    code=0
    SHOAL_MUTANT=$fault target/debug/shoal dev --demo >"target/demo-$fault.log" 2>&1 || code=$?
    if [ "$code" != 1 ]; then
      tail -n 20 "target/demo-$fault.log"
      echo "the demo's verdict did not notice $fault (exit code $code)"
      exit 1
    fi
  done
fi
left_out="more seeds, longer loops and soaks (make sim, make soak)"
[ "$(id -u)" = 0 ] || left_out+="; faults on processes (needs root)"
# A cluster of our own needs root; one of the user must be named.
if [ "$(id -u)" = 0 ] || [ -n "${SHOAL_TEST_KUBECONFIG:-}" ]; then
  tests/setup.sh kube
  rung "build of Kubernetes" tests/kube/build.sh
  rung "a real Kubernetes" cargo test "${all[@]}" --quiet "${features[@]}" --test kube
  rung "a real API server: what is declared" \
    cargo test "${all[@]}" --quiet "${features[@]}" --test declared
  if [ "$(id -u)" = 0 ]; then
    rung "a real control plane: the operator" \
      cargo test "${all[@]}" --quiet "${features[@]}" --test operator -- --test-threads=3
  fi
  rung "images" tests/kube/images.sh debug --next
  cargo build --quiet --bin shoal-kube-demo "${features[@]}"
  rung "kube-demo: planned changes fail nothing on Kubernetes" target/debug/shoal-kube-demo
  rung "a real node: planned changes, faults and mistakes" \
    cargo test "${all[@]}" --quiet "${features[@]}" --test e2e -- --test-threads=1
else
  left_out+="; Kubernetes (needs root, or SHOAL_TEST_KUBECONFIG)"
fi
echo "left out: $left_out"
