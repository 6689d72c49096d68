#!/usr/bin/env bash
# Builds what the Kubernetes suites run, into target/kube/bin or $1: Kubernetes and etcd as one binary,
# Helm, CoreDNS, and the pause container's process. Each is built again only when its sources,
# its pins, this script or Go changed. The first build takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly root=$PWD
readonly bin=${1:-$root/target/kube/bin}
tests/setup.sh kube
go=$(tests/setup.sh go)
readonly go
export CGO_ENABLED=0 GOFLAGS=-mod=readonly

# Whether $1 was built from exactly what it would be built from now.
current() {
  [ -x "$bin/$1" ] && [ "$(cat "$bin/$1.key" 2>/dev/null)" = "$2" ]
}

# One module of tests/kube: the folder $1 becomes the binary $1; the rest are `go build` arguments.
build() {
  local name=$1 dir=$root/tests/kube/$1 key
  shift
  key=$( (cd "$dir" && "$go" version && cat go.mod go.sum $(ls ./*.go 2>/dev/null) "$root/tests/kube/build.sh") | sha256sum)
  if current "$name" "$key"; then
    return
  fi
  echo "building $name" >&2
  (cd "$dir" && "$go" build -trimpath -o "$bin/$name.new" "$@")
  mv "$bin/$name.new" "$bin/$name"
  echo "$key" >"$bin/$name.key"
}

# The version a module is pinned to.
pinned() {
  (cd "$root/tests/kube/$1" && "$go" list -m -f '{{.Version}}' "$2")
}

# Without its version Kubernetes calls itself v0.0.0, which kubectl and Helm refuse to work with.
hyperkube_flags() {
  local version minor package flags='-s -w'
  version=$(pinned hyperkube k8s.io/kubernetes)
  minor=${version#v1.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    flags+=" -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  echo "$flags"
}

pause() {
  local key
  key=$(cat tests/kube/pause/pause.c tests/kube/build.sh | sha256sum)
  if current pause "$key"; then
    return
  fi
  cc -Os -static -s -o "$bin/pause" tests/kube/pause/pause.c
  echo "$key" >"$bin/pause.key"
}

mkdir -p "$bin"
exec 9>"$bin/.lock"
flock 9
pause
build hyperkube -tags selinux,notest,grpcnotrace -ldflags "$(hyperkube_flags)" .
for component in etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
  ln -sf hyperkube "$bin/$component"
done
build helm -ldflags '-s -w' tool
build coredns -ldflags '-s -w' tool
