#!/usr/bin/env bash
# Whether the images depend on where they are built: builds those of the last commit here and in a
# clone at another path, with another home of cargo, and compares the archives byte by byte. The
# second build starts cold; needs a tree without changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ -n "$(git status --porcelain)" ]; then
  echo "the tree has changes: commit or stash them, since a clone has only what is committed" >&2
  exit 65
fi
readonly elsewhere=$PWD/target/elsewhere
readonly clone="$elsewhere/at another path/shoal"
rm -rf "$elsewhere"
mkdir -p "$elsewhere/cargo"
git clone --quiet . "$clone"
# What was fetched before need not be fetched again; where it lies has another name all the same.
for part in "${CARGO_HOME:-$HOME/.cargo}"/{registry,config.toml}; do
  [ ! -e "$part" ] || cp -r "$part" "$elsewhere/cargo/"
done

tests/kube/images.sh release
CARGO_HOME=$elsewhere/cargo "$clone/tests/kube/images.sh" release
differ=0
for image in shoal shoal-operator; do
  if cmp "target/images/release/$image.tar" "$clone/target/images/release/$image.tar"; then
    echo "$image: the same bytes, sha256 $(sha256sum <"target/images/release/$image.tar" | cut -c1-64)"
  else
    echo "$image: differs" >&2
    differ=1
  fi
done
[ "$differ" = 0 ] || exit 1
rm -rf "$elsewhere"
