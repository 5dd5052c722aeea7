#!/bin/bash
# entrypoint.sh controller|node|accounting: run that part of the cluster until one of its daemons ends.
# Everything runs as the container's user and needs no capability. Anything else is run as it stands.
set -euo pipefail
# shellcheck source=containers/slurm/render.sh
source "$(dirname "$0")/render.sh"

started=()

start() {
  "$@" &
  started+=("$!")
}

stop() {
  trap - TERM INT
  kill "${started[@]}" 2>/dev/null || true
  wait
}

# A Docker network knows a container's name only while it runs, and slurmctld gives up on a node
# whose name it cannot resolve: wait for all of them, but start without one that never comes.
wait_for_names() {
  local name deadline=$((SECONDS + ${SLURM_WAIT_S:-60}))
  for name in "$@"; do
    until getent hosts "$name" >/dev/null || [ "$SECONDS" -ge "$deadline" ]; do sleep 0.5; done
  done
}

role=${1:-}
case $role in
  controller | node | accounting) ;;
  "") die "no command: choose controller, node or accounting" ;;
  *) exec "$@" ;;
esac

mkdir -p "$RUN/slurm" "$RUN/slurmd"
# slurmd writes the scripts of jobs there and executes them; Docker mounts a tmpfs noexec by default.
install -m 0755 /bin/true "$RUN/slurmd/probe"
"$RUN/slurmd/probe" 2>/dev/null || die "$RUN does not let programs run: mount it with exec (--tmpfs $RUN:exec,uid=10001)"
rm "$RUN/slurmd/probe"
echo "$role" >"$RUN/role"
render_munge
render_slurm_conf
trap 'stop; exit 143' TERM
trap 'stop; exit 130' INT
start munged --foreground --key-file="$RUN/munge/key" --socket="$RUN/munge/socket" \
  --pid-file="$RUN/munge/pid" --seed-file="$RUN/munge/seed"
until munge --no-input --socket="$RUN/munge/socket" >/dev/null 2>&1; do
  kill -0 "${started[0]}" 2>/dev/null || die "munged did not start"
  sleep 0.1
done

IFS=, read -r -a nodes <<<"$SLURM_NODES"
case $role in
  controller)
    render_ssh
    wait_for_names "${nodes[@]}"
    start /usr/sbin/sshd -D -e -f "$RUN/ssh/sshd_config"
    start slurmctld -D
    ;;
  node)
    wait_for_names "$SLURM_CONTROLLER" "${nodes[@]}"
    start slurmd -D
    ;;
  accounting)
    render_slurmdbd_conf
    start slurmdbd -D
    ;;
esac
# None of them ends on its own: one that does takes the container down, which then starts anew.
code=0
wait -n || code=$?
echo "slurm container: a daemon of the $role ended with exit code $code" >&2
stop
exit 1
