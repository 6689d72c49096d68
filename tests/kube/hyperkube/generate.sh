#!/usr/bin/env bash
# Writes go.mod and go.sum for a version of Kubernetes: its own go.mod replaces the modules it
# is made of by folders, so each needs a replace line here too. An etcd newer than the one
# Kubernetes asks for drags newer pins in: leave it alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly version=${1:?a version of Kubernetes, as v1.36.4}
readonly staging=v0.${version#v1.}
export GOFLAGS=-mod=mod GOTOOLCHAIN=local CGO_ENABLED=0

rm -f go.mod go.sum
go mod init example.invalid/hyperkube
parent=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
go mod edit -json "$parent" | grep -oE '"\./staging/src/[^"]+"' | sed 's#"./staging/src/##; s#"##' |
  while read -r module; do
    go mod edit -replace="$module=$module@$staging"
  done
go mod edit -go=1.26.0 -require="k8s.io/kubernetes@$version" \
  -require="k8s.io/component-base@$staging" -require="k8s.io/kubectl@$staging"
go mod tidy
