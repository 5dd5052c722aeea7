#!/bin/bash
# Unpack Debian packages of another release into a folder: unpack_packages.sh RELEASE COMPONENT FOLDER PACKAGE...
#
# The release is read through a private apt configuration made from the machine's own source files, so
# that packages come from wherever this machine gets its packages, and apt's own state stays untouched.
set -euo pipefail

release=$1 component=$2 folder=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{sources,lists/partial,cache/archives/partial,packages} "$folder"
# shellcheck source=/dev/null
here=$(. /etc/os-release && echo "$VERSION_CODENAME")
found=no
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  # Only this distribution's own archive, which holds every release under the same address.
  if [ -f "$source" ] && grep -q "debian\b" "$source" && grep -qw "$here" "$source"; then
    sed -E "s/\b$here\b/$release/g; s/\bmain\b/$component/" "$source" >"$work/sources/$(basename "$source")"
    found=yes
  fi
done
if [ "$found" = no ]; then
  echo "no Debian source that names $here: install $* by hand" >&2
  exit 69
fi
options=(
  -o "Dir::Etc::SourceList=$work/sources/sources.list" -o "Dir::Etc::SourceParts=$work/sources"
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=root"
  -o "Acquire::Languages=none"
)
cd "$work/packages"
apt-get "${options[@]}" update -qq
apt-get "${options[@]}" download -qq "$@"
for package in ./*.deb; do dpkg -x "$package" "$folder"; done
