#!/usr/bin/env bash
# Installs what is missing on this machine, and says so. Without an argument: what building
# needs. `clients`: also what the stock clients of the suites need. `faults`: also what cuts and
# slows networks. `kube`: also what a
# Kubernetes node on this machine needs. `go`: prints the path of a Go command that can fetch the
# version which they ask for.
set -euo pipefail

# The first version that fetches the one a module asks for by itself.
readonly go_fetches=21
# Fetched through the module proxy where the distribution's is older.
readonly go_version=1.25.5

install() {
  [ $# -gt 0 ] || return 0
  echo "installing: $*" >&2
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "$@" >/dev/null
}

go_minor() {
  "$1" version | sed -E 's/^go version go1\.([0-9]+).*/\1/'
}

# The command of a new enough Go: the installed one, else one that it fetches.
go_command() {
  local go
  go=$(command -v go || echo /usr/lib/go/bin/go)
  if [ "$(go_minor "$go")" -ge "$go_fetches" ]; then
    echo "$go"
    return
  fi
  local arch module dir
  arch=$("$go" env GOARCH)
  module=golang.org/toolchain@v0.0.1-go$go_version.linux-$arch
  dir=$("$go" env GOMODCACHE)/$module
  if [ ! -x "$dir/bin/go" ]; then
    echo "fetching Go $go_version: the installed one is too old" >&2
    (cd / && "$go" mod download "$module" >&2)
    # Modules are kept without the right to run and to write.
    chmod -R u+w "$dir"
    chmod -R a+x "$dir/bin" "$dir/pkg/tool"
  fi
  echo "$dir/bin/go"
}

missing=()
command -v cc >/dev/null || missing+=(build-essential)
if [ "${1:-}" = clients ]; then
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
  command -v go >/dev/null || missing+=(golang-go)
fi
if [ "${1:-}" = faults ]; then
  for package in iproute2 nftables; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
fi
if [ "${1:-}" = kube ]; then
  command -v go >/dev/null || missing+=(golang-go)
  # The Go modules pin the rest; a node needs no more of the distribution than this.
  for package in busybox-static containerd containernetworking-plugins iproute2 iptables nftables runc; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
fi
install "${missing[@]}"

if ! command -v cargo >/dev/null; then
  echo "Rust is missing: install it with rustup (the version stands in rust-toolchain.toml), then run this again" >&2
  exit 1
fi
if [ "${1:-}" = go ]; then
  go_command
fi
