#!/bin/bash
# Install Nsight Systems from Debian's non-free packages under /opt/nvidia, where the trainer looks, unless
# nsys is there. Debian 12 has an older one: this is Debian 13's, unpacked beside the system's packages.
#
# Debian's nsys takes libraries from the system; NVIDIA's own brings them. Copies of them are put where the
# two programs look first (their rpath is $ORIGIN), so that this folder, as NVIDIA's, is all that a container
# needs to have mounted.
set -euo pipefail

home=/opt/nvidia/nsight-systems
version=2023.4
programs=("$home/$version/bin/nsys" "$home/$version/host-linux-x64/QdstrmImporter")
# What every image with torch has: the C and C++ libraries.
common='^lib(c|m|dl|rt|util|pthread|resolv|gcc_s|stdc\+\+)\.so\.'

if [ ! -x "${programs[0]}" ]; then
  command -v nsys >/dev/null && exit 0
  "$(dirname "$0")/unpack_packages.sh" trixie non-free "$home/debian" nsight-systems nsight-systems-target
  ln -sfn debian/usr/lib/nsight-systems "$home/$version"
fi

complete=$home/$version/.complete
if [ ! -e "$complete" ]; then
  importer=$(dirname "${programs[1]}")
  ssh=$(ldconfig -p | awk '/libssh\.so\.4 / { print $NF; exit }')
  [ -n "$ssh" ] || { echo "libssh-4 is missing: apt-get install libssh-4" >&2; exit 69; }
  # By the name that only libssh-dev would give it. The package's link leads out of this folder.
  cp --remove-destination -L "$ssh" "$importer/libssh.so"
  ln -sfn libssh.so "$importer/libssh.so.4"
  for program in "${programs[@]}"; do
    program=$(readlink -f "$program")
    folder=$(dirname "$program")
    ldd "$program" | awk '$2 == "=>" { print $1, $3 }' | sort -u | while read -r name path; do
      if [[ $name =~ $common || $path == "$home"/* ]]; then continue; fi
      if [ "$path" = not ]; then
        echo "$name, which $program loads, is missing: apt-get install libssh-4 libelf1 libpfm4" >&2
        exit 69
      fi
      cp --remove-destination -L "$path" "$folder/$name"
    done
  done
  touch "$complete"
fi
"${programs[0]}" --version
