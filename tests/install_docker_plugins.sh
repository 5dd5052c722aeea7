#!/bin/bash
# Install Docker's compose and buildx plugins into ~/.docker/cli-plugins, unless they are there.
#
# Debian 12 has the engine but not the plugins; Debian 13's packages of them hold static binaries.
set -euo pipefail

plugins="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
missing=()
for plugin in compose buildx; do
  docker "$plugin" version >/dev/null 2>&1 || missing+=("docker-$plugin")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$(dirname "$0")/unpack_packages.sh" trixie main "$work" "${missing[@]}"
mkdir -p "$plugins"
for plugin in "${missing[@]}"; do
  binary=$(find "$work" -type f -name "$plugin" -perm -u+x | head -n 1)
  install -m 0755 "$binary" "$plugins/$plugin"
  docker "${plugin#docker-}" version
done
