#!/usr/bin/env bash
# Every rule left out on purpose, and the suite that notices: one line each, and a count.
set -euo pipefail
cd "$(dirname "$0")/.."
features=(--features shoal-worker/mutants)
log=target/mutants.log
: >"$log"

suite() {
  local name=$1
  shift
  echo "== $name" | tee -a "$log"
  if ! "$@" >target/mutants.part 2>&1; then
    cat target/mutants.part
    echo "a mutant went unnoticed in: $name"
    exit 1
  fi
  cat target/mutants.part >>"$log"
}

suite "machines together" \
  cargo test --quiet -p shoal-tests "${features[@]}" --test machines mutant -- --nocapture
grep -oE '[A-Za-z]+ found: .*' target/mutants.part | sed 's,^[.]*,,' | cut -c1-110 | sort -u
suite "model" cargo test --quiet -p shoal-model --test proofs -- --nocapture
grep -E ': not so in .* after [0-9]+ steps' target/mutants.part | sed 's,^[.]*,,' | cut -c1-110 | sort -u
suite "whole clusters, simulated" \
  cargo test --quiet -p shoal-sim --features sim the_judge_of_whole_clusters -- --nocapture
echo "lose-increment and stale-owner: a value was given twice"
cargo build --quiet --bin shoal "${features[@]}"
for mutant in lose-increment stale-owner; do
  code=0
  SHOAL_MUTANT=$mutant target/debug/shoal dev --demo >>"$log" 2>&1 || code=$?
  [ "$code" = 1 ] || { echo "the demo's verdict did not notice $mutant (exit code $code)"; exit 1; }
  echo "$mutant: the demo's verdict"
done
echo "$(grep -cE 'found: |: not so in .* after' "$log") findings in the machines and the model, all noticed"
