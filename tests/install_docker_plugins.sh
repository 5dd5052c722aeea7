#!/bin/bash
# Install Docker's compose and buildx plugins into ~/.docker/cli-plugins, unless they are there.
#
# Debian 12 has the engine but not the plugins; Debian 13's packages of them hold static binaries. The
# newer release is read through a private apt configuration made from the machine's own source files, so
# that packages come from wherever this machine gets its packages, and apt's own state stays untouched.
set -euo pipefail

plugins="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
release=trixie
missing=()
for plugin in compose buildx; do
  docker "$plugin" version >/dev/null 2>&1 || missing+=("docker-$plugin")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{sources,lists/partial,cache/archives/partial,unpacked}
# shellcheck source=/dev/null
here=$(. /etc/os-release && echo "$VERSION_CODENAME")
found=no
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  # Only this distribution's own archive, which holds every release under the same address.
  if [ -f "$source" ] && grep -q "debian\b" "$source" && grep -qw "$here" "$source"; then
    sed -E "s/\b$here\b/$release/g" "$source" >"$work/sources/$(basename "$source")"
    found=yes
  fi
done
if [ "$found" = no ]; then
  echo "no Debian source that names $here: install the docker-compose and docker-buildx plugins by hand" >&2
  exit 69
fi
options=(
  -o "Dir::Etc::SourceList=$work/sources/sources.list" -o "Dir::Etc::SourceParts=$work/sources"
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=root"
  -o "Acquire::Languages=none"
)
cd "$work/unpacked"
apt-get "${options[@]}" update -qq
apt-get "${options[@]}" download -qq "${missing[@]}"
for package in ./*.deb; do dpkg -x "$package" .; done
mkdir -p "$plugins"
for plugin in "${missing[@]}"; do
  binary=$(find . -type f -name "$plugin" -perm -u+x | head -n 1)
  install -m 0755 "$binary" "$plugins/$plugin"
  docker "${plugin#docker-}" version
done
