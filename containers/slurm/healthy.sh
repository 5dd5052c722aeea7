#!/bin/bash
# Healthy when the daemons of this container's role answer.
set -euo pipefail

listens() {
  timeout 2 bash -c ": </dev/tcp/127.0.0.1/$1" 2>/dev/null
}

case $(</run/trainyard/role) in
  controller) scontrol ping | grep -q "is UP" && listens "${SLURM_SSH_PORT:-2222}" ;;
  node)
    # Registered with the controller, and not only running.
    [[ $(sinfo --noheader --nodes "$(hostname)" --format %t) =~ ^(idle|mix|alloc|comp|plnd|resv)$ ]]
    ;;
  accounting) sacctmgr --noheader list cluster >/dev/null && listens 6819 ;;
esac
