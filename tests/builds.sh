#!/usr/bin/env bash
# What later suites need beyond the build of the workspace: the stock clients, and the images of
# this version and the next. Replaces the worker in target/debug for a while.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/clients/build.sh
tests/kube/images.sh debug --next
