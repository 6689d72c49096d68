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

# $1: what a rung is called; $2: a suite; the rest: its arguments. Run as it was built, without
# cargo, which would wait for what is built beside it.
suite() {
  local name=$1 suite=$2 program
  shift 2
  program=$(sed -n "s|^ *Executable .*(\(.*/$suite-[0-9a-f]*\))$|\1|p" target/built.log)
  [ -x "$program" ] || { echo "failed: cargo named no program of the suite $suite"; exit 1; }
  program=$PWD/$program
  rung "$name" in_tests "$program" --quiet "$@"
}
in_tests() { (cd tests && "$@"); }

# What does not depend on time, with what others leave of the processors; it ends in `settle`.
declare -A beside=()
beside() {
  local name=$1
  shift
  # A session of its own, to end all of it where a rung fails; and where the kernel shares
  # processors among sessions, it is the session that must be nice.
  # shellcheck disable=SC2016
  setsid nice -n 19 bash -c 'echo 19 2>/dev/null >/proc/self/autogroup || true; exec "$@"' - "$@" \
    >"target/beside-${name// /-}.log" 2>&1 &
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
cargo test "${all[@]}" "${features[@]}" --all-targets --no-run 2>target/built.log
# A copy: what is built beside the suites takes its place for a while.
mkdir -p target/tested
cp target/debug/shoal target/debug/shoal-operator target/tested/
export SHOAL=$PWD/target/tested/shoal SHOAL_OPERATOR=$PWD/target/tested/shoal-operator
[ "$(id -u)" != 0 ] || tests/setup.sh faults
tests/setup.sh clients
# A cluster of our own needs root; one of the user must be named.
on_kubernetes=
if [ "$(id -u)" = 0 ] || [ -n "${SHOAL_TEST_KUBECONFIG:-}" ]; then
  on_kubernetes=1
  tests/setup.sh kube
  beside "build of Kubernetes" tests/kube/build.sh
fi
# Most of them wait for timers: more at once than there are processors leave those idle still.
rung "unit, property and repository tests" cargo test "${all[@]}" --quiet "${features[@]}" \
  --lib --bins --test tidy --test chart -- --test-threads=4
[ "$(id -u)" != 0 ] || beside "next version" tests/faults/next.sh
suite "machines together, simulated" machines
suite "clusters of real processes" cluster --test-threads=4
rung "figures of scale at their smallest" target/debug/shoal-figures \
  --small --shoal "$SHOAL" --out target/bench-small \
  scale-planner scale-registry scale-fencing scale-sessions scale-restart
[ "$(id -u)" != 0 ] || settle "next version"
beside "other builds" tests/builds.sh
[ "$(id -u)" != 0 ] || suite "faults on processes in network namespaces" faults --test-threads=1
settle "other builds"
suite "stock clients under planned changes" clients --nocapture
rung "demo: planned changes fail nothing" "$SHOAL" dev --demo
for fault in lose-increment stale-owner; do
  echo "== demo with $fault must fail"
  code=0
  SHOAL_MUTANT=$fault "$SHOAL" dev --demo >"target/demo-$fault.log" 2>&1 || code=$?
  if [ "$code" != 1 ]; then
    tail -n 20 "target/demo-$fault.log"
    echo "the demo's verdict did not notice $fault (exit code $code)"
    exit 1
  fi
done
beside "model of sessions and moves, exhaustively" \
  cargo test "${all[@]}" --quiet "${features[@]}" --test proofs --test sameness
beside "whole clusters, simulated" \
  cargo test "${all[@]}" --quiet --features shoal-sim/sim --test seeds
beside "every decoder under damaged bytes" \
  cargo test --workspace --quiet "${features[@]}" --test decoders
left_out="more seeds, longer loops and soaks (make sim, make soak)"
[ "$(id -u)" = 0 ] || left_out+="; faults on processes (needs root)"
if [ -n "$on_kubernetes" ]; then
  settle "build of Kubernetes"
  suite "a real Kubernetes" kube
  suite "a real API server: what is declared" declared
  [ "$(id -u)" != 0 ] || suite "a real control plane: the operator" operator --test-threads=3
  rung "kube-demo: planned changes fail nothing on Kubernetes" target/debug/shoal-kube-demo
  suite "a real node: planned changes, faults and mistakes" e2e --test-threads=1
else
  left_out+="; Kubernetes (needs root, or SHOAL_TEST_KUBECONFIG)"
fi
settle "model of sessions and moves, exhaustively"
settle "whole clusters, simulated"
settle "every decoder under damaged bytes"
echo "== all: ${SECONDS} s"
echo "left out: $left_out"
