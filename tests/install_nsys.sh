#!/bin/bash
# Install Nsight Systems from Debian's non-free packages under /opt/nvidia, where the trainer looks, unless
# nsys is there. Debian 12 has an older one: this is Debian 13's, unpacked beside the system's packages.
set -euo pipefail

home=/opt/nvidia/nsight-systems
[ -x "$home/2023.4/bin/nsys" ] && exit 0
command -v nsys >/dev/null && exit 0
tree=$home/debian
"$(dirname "$0")/unpack_packages.sh" trixie non-free "$tree" nsight-systems nsight-systems-target
ln -sfn debian/usr/lib/nsight-systems "$home/2023.4"
# Its importer asks for the library by the name that only libssh-dev would give it.
library=$(ldconfig -p | awk '/libssh\.so\.4 / { print $NF; exit }')
[ -n "$library" ] || { echo "libssh-4 is missing: apt-get install libssh-4" >&2; exit 69; }
ln -sfn "$library" "$home/2023.4/host-linux-x64/libssh.so"
"$home/2023.4/bin/nsys" --version
