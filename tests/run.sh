#!/usr/bin/env bash
# Everything, small: unit and property tests, repository rules, simulated machines, the model, whole
# clusters simulated, damaged bytes, clusters of real processes, faults on them, stock clients, the
# demo, and Kubernetes.
# Says how long each rung took and what was left out.
set -euo pipefail
cd "$(dirname "$0")/.."
features=(--features shoal-worker/mutants)
# Every rung names the same packages and features, so that one build serves nearly all of them. The
# simulation and the fuzz loop change the worker and build it once more each.
all=(--workspace --exclude shoal-fuzz)

rung() {
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - began)) s"
}

# $1: what a rung is called; the rest: what it runs of this build.
suite() {
  local name=$1
  shift
  rung "$name" cargo test "${all[@]}" --quiet "${features[@]}" "$@"
}

# What does not depend on time, with what others leave of the processors; it ends in `settle`.
declare -A beside=()
beside() {
  local name=$1
  shift
  # A process group of its own, to end all of it where a rung fails.
  set -m
  nice -n 19 "$@" >"target/beside-${name// /-}.log" 2>&1 &
  set +m
  beside[$name]=$!
}
end_beside() {
  local pid
  for pid in "${beside[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
}
settle() {
  local name=$1 code=0
  echo "== $name: waits for its end, ${SECONDS} s after the beginning of all"
  wait "${beside[$name]}" || code=$?
  unset "beside[$name]"
  cat "target/beside-${name// /-}.log"
  if [ "$code" != 0 ]; then
    echo "failed: $name (exit code $code)"
    exit 1
  fi
  echo "== $name: ended, ${SECONDS} s after the beginning of all"
}
trap end_beside EXIT

rung "build" cargo build "${all[@]}" --quiet "${features[@]}" --all-targets
simulation=("${all[@]}" --quiet --features shoal-sim/sim --test seeds)
rung "build of the simulation" cargo test "${simulation[@]}" --no-run
[ "$(id -u)" != 0 ] || tests/setup.sh faults
tests/setup.sh clients
# A cluster of our own needs root; one of the user must be named.
on_kubernetes=
if [ "$(id -u)" = 0 ] || [ -n "${SHOAL_TEST_KUBECONFIG:-}" ]; then
  on_kubernetes=1
  tests/setup.sh kube
  beside "build of Kubernetes" tests/kube/build.sh
fi
export SHOAL=$PWD/target/debug/shoal SHOAL_OPERATOR=$PWD/target/debug/shoal-operator
# Most of them wait for timers: two at once leave the processors idle.
suite "unit, property and repository tests" \
  --lib --bins --test tidy --test chart -- --test-threads=4
suite "machines together, simulated" --test machines
rung "every decoder under damaged bytes" \
  cargo test --workspace --quiet "${features[@]}" --test decoders
suite "clusters of real processes" --test cluster
rung "figures of scale at their smallest" target/debug/shoal-figures \
  --small --shoal "$SHOAL" --out target/bench-small \
  scale-planner scale-registry scale-fencing scale-sessions scale-restart
if [ "$(id -u)" = 0 ]; then
  rung "build of the next version" tests/faults/next.sh
  suite "faults on processes in network namespaces" --test faults -- --test-threads=1
fi
rung "build of the stock clients" tests/clients/build.sh
suite "stock clients under planned changes" --test clients -- --nocapture
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
beside "model of sessions and moves, exhaustively" \
  cargo test "${all[@]}" --quiet "${features[@]}" --test proofs --test sameness
beside "whole clusters, simulated" cargo test "${simulation[@]}"
left_out="more seeds, longer loops and soaks (make sim, make soak)"
[ "$(id -u)" = 0 ] || left_out+="; faults on processes (needs root)"
if [ -n "$on_kubernetes" ]; then
  settle "build of Kubernetes"
  suite "a real Kubernetes" --test kube
  suite "a real API server: what is declared" --test declared
  if [ "$(id -u)" = 0 ]; then
    suite "a real control plane: the operator" --test operator -- --test-threads=3
  fi
  rung "images" tests/kube/images.sh debug --next
  rung "kube-demo: planned changes fail nothing on Kubernetes" target/debug/shoal-kube-demo
  suite "a real node: planned changes, faults and mistakes" --test e2e -- --test-threads=1
else
  left_out+="; Kubernetes (needs root, or SHOAL_TEST_KUBECONFIG)"
fi
settle "model of sessions and moves, exhaustively"
settle "whole clusters, simulated"
echo "== all: ${SECONDS} s"
echo "left out: $left_out"
