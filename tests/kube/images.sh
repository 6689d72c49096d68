#!/usr/bin/env bash
# Container images without a registry and without a container tool: builds the worker and the
# operator and writes an OCI archive of each into target/images/<profile>, under a name that ends
# with the hash of its content. $1: release or debug. With --next also the worker of the version
# after this one, for what rolls from one to the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly profile=${1:-release} images=target/images/${1:-release}
case $profile in
  release)
    cargo=(cargo build --quiet --release --locked) features=
    . tests/kube/reproducible.sh
    ;;
  # All as the suites build them, so that nothing is built twice nor in turns.
  debug) cargo=(cargo build --quiet) features=shoal-worker/mutants ;;
  *) echo "usage: $0 [release|debug] [--next]" >&2; exit 64 ;;
esac

# $1: name of the image; $2: the program, which is built.
image() {
  strip -o "$images/$2" "target/$profile/$2"
  echo "$images/$1.tar: $("target/$profile/shoal-kube" image \
    --name "$1" --binary "$images/$2" --entrypoint "/usr/local/bin/$2" --out "$images/$1.tar")"
  rm "$images/$2"
}

mkdir -p "$images"
"${cargo[@]}" --bin shoal-kube --bin shoal-operator --features "$features"
if [ "${2:-}" = --next ]; then
  "${cargo[@]}" --bin shoal --features "$features${features:+,}shoal-worker/next"
  image shoal-next shoal
fi
# Last: what lies in target afterwards is this version.
"${cargo[@]}" --bin shoal --features "$features"
image shoal shoal
image shoal-operator shoal-operator
