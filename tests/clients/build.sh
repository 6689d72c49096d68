#!/usr/bin/env bash
# Builds the stock clients into target/clients: a virtual environment with grpcio, a program
# with grpc-go, and the stubs of both from proto/. Does nothing when they are up to date.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/clients
protos=(shoal/v1/shoal.proto shoal/v1/routes.proto shoal/v1/where.proto)
go=$(tests/setup.sh go)
export GOTOOLCHAIN=auto GOFLAGS=-mod=readonly

stamp=$(cat tests/clients/build.sh tests/clients/python/* tests/clients/go/* proto/shoal/v1/*.proto |
  sha256sum; python3 --version)
if [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
rm -rf "$out"
mkdir -p "$out/python" "$out/go/stubs"

python3 -m venv "$out/python/venv"
"$out/python/venv/bin/pip" install --quiet --disable-pip-version-check \
  -r tests/clients/python/requirements.txt
# It carries a protoc of its own, which serves both languages.
protoc=("$out/python/venv/bin/python" -m grpc_tools.protoc -I proto)
"${protoc[@]}" --python_out="$out/python" --grpc_python_out="$out/python" "${protos[@]}"
cp tests/clients/python/client.py "$out/python/"

cp tests/clients/go/* "$out/go/"
mapped=()
for proto in "${protos[@]}"; do
  mapped+=("--go_opt=M$proto=shoal.dev/clients/stubs/shoal/v1"
    "--go-grpc_opt=M$proto=shoal.dev/clients/stubs/shoal/v1")
done
for plugin in google.golang.org/protobuf/cmd/protoc-gen-go \
  google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
  (cd "$out/go" && "$go" build -o "$out/go/bin/" "$plugin")
done
PATH="$out/go/bin:$PATH" "${protoc[@]}" --go_out="$out/go/stubs" --go-grpc_out="$out/go/stubs" \
  --go_opt=paths=source_relative --go-grpc_opt=paths=source_relative "${mapped[@]}" "${protos[@]}"
(cd "$out/go" && "$go" build -o "$out/go/client" .)
printf '%s' "$stamp" >"$out/stamp"
