#!/bin/sh
# First step of every image: the unprivileged user, its folders, and nothing that installs or compiles.
set -eu

# One number in every image: run folders are shared between containers.
groupadd --gid 10001 trainyard
useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash --password '*' trainyard
install -d -o trainyard -g trainyard /srv/trainyard /srv/trainyard/runs /srv/trainyard/data \
  /srv/trainyard/reports /srv/trainyard/downloads

# An NGC base keeps its own tools: they belong to the base, not to us.
[ "${1:-}" = keep-tools ] && exit 0

# dpkg removes what Debian installed, so that scanners of the package database see it gone.
installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Abbrev}\n' |
  awk '$2 == "ii" && $1 ~ /^python3(\.[0-9]+)?-(pip|venv|pip-whl|setuptools-whl)$/ { print $1 }')
# shellcheck disable=SC2086 # package names hold no spaces
[ -z "$installed" ] || dpkg --purge $installed >/dev/null
rm -rf /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* /usr/local/bin/wheel \
  /usr/local/lib/python3.*/site-packages/pip* /usr/local/lib/python3.*/site-packages/setuptools* \
  /usr/local/lib/python3.*/site-packages/wheel* /usr/local/lib/python3.*/site-packages/_distutils_hack \
  /var/lib/apt/lists/* /var/cache/apt/*.bin
