"""The shell functions that every sbatch script of ours carries. Text only."""

from __future__ import annotations

from trainyard.shelltext import OUTLIVE, PUT

FUNCTIONS = (
    r"""
signal=""
child=""
ended=""
"""
    + PUT
    + r"""
now() { date -u +%Y-%m-%dT%H:%M:%SZ; }
# record [ENDED EXIT_CODE]: who this attempt is, as one JSON object.
record() {
  printf '{"job_id": %s, "array_job_id": %s, "array_task_id": %s, "het_job_id": %s, ' \
    "$SLURM_JOB_ID" "${SLURM_ARRAY_JOB_ID:-null}" "${SLURM_ARRAY_TASK_ID:-null}" \
    "${SLURM_HET_JOB_ID:-null}"
  printf '"restarts": %s, "cluster": "%s", "name": "%s", "nodes": "%s", "batch_host": "%s", ' \
    "${SLURM_RESTART_COUNT:-0}" "${SLURM_CLUSTER_NAME:-}" "$SLURM_JOB_NAME" \
    "$SLURM_JOB_NODELIST" "${SLURMD_NODENAME:-}"
  printf '"started_at": "%s", "ended_at": %s, "exit_code": %s, "signal": %s}\n' \
    "$started_at" "${1:-null}" "${2:-null}" "${signal:-null}"
}
# begin: leave the breadcrumb; what an earlier attempt left must not be taken for this one's.
begin() {
  started_at=$(now)
  began=$(date +%FT%T)  # on the clock and in the form of scontrol
  attempt="attempts/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  export PATH  # this shell has one; where slurmd is not root's, Slurm hands none on to srun
  cd "$run_dir" && mkdir -p attempts profiles || exit 72
  rm -f exit_code
  if [ -e result.json ]; then mv -f result.json "$attempt.result-before.json"; fi
  trap 'told TERM 15' TERM
  trap 'told INT 2' INT
  record | put "$attempt.json" && record | put job.json || finish 72
}
# told NAME NUMBER: Slurm or a person asks for the end; the ranks are told, too. Not through srun:
# it kills its tasks at SIGTERM. Not by the raw id: an array's last element shares it with all.
told() {
  signal=$2
  if [ -n "$ended" ]; then return; fi
  if [ -z "$child" ]; then finish $((128 + $2)); fi
  whose
  # In the background: while Slurm itself ends the job, scancel tries again for a long time.
  { timeout 5 scancel --signal="$1" "$job" || kill -s "$1" "$child"; } >/dev/null 2>&1 &
  record | put "$attempt.json"  # at once: SIGKILL may follow before the command has ended
}
# finish CODE: the exit code is the last thing written.
finish() {
  trap '' TERM INT
  record "\"$(now)\"" "$1" | put "$attempt.json"
  echo "$1" | put exit_code
  exit "$1"
}
# step COMMAND: something that must work before the run.
step() { "$@" || { code=$?; echo "set-up failed ($code): $*" >&2; finish 73; }; }
# load MODULE: a batch shell may lack the module function; a login shell's profile defines it.
load() {
  type module >/dev/null 2>&1 || . /etc/profile
  step module load "$1"
}
# rendezvous KIND PORT COUNT: where the nodes of this job meet: the first one, a port by job id.
rendezvous() {
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  if [ "$1" = nodeaddr ]; then
    first=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p')
  fi
  if [ -z "$first" ]; then echo "no address of the first node" >&2; finish 74; fi
  export TRAINYARD_RENDEZVOUS="$first:$(($2 + SLURM_JOB_ID % $3))"
}
# whose: the id of this job alone, also where it is an array's element.
whose() {
  job=$SLURM_JOB_ID
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
}
# suspect: name nodes that came back during this attempt: what ran there, Slurm did not miss. Had
# it, it would have started the job again; so it is told to, once, where it may.
suspect() {
  back=$(
    timeout 10 scontrol --oneliner show node "$SLURM_JOB_NODELIST" 2>/dev/null |
      sed -n 's/^NodeName=\([^ ]*\) .* SlurmdStartTime=\([0-9][^ ]*\).*/\1 \2/p' |
      while read -r node since; do
        if [[ $since > $began ]]; then
          echo "node $node: its slurmd began at $since, after this attempt; what ran there may" \
            "have ended with the one before"
        fi
      done
  )
  if [ -z "$back" ]; then return; fi
  echo "$back" >&2
  whose
  if [ -z "${SLURM_RESTART_COUNT:-}" ] && timeout 10 scontrol requeue "$job"; then
    sleep 300 &
    wait $!  # for SIGTERM
  fi
}
# run COMMAND: run it, outlive the signals it gets, keep its exit code.
run() {
  "$@" &
"""
    + OUTLIVE
    + r"""
  child=""
  # srun exits with 0 when it gives up on ranks that ignore SIGTERM (22.05: "Timed out waiting for
  # job step to complete"): of a run that was told to end, only its result is proof of success.
  if [ "$code" -eq 0 ] && [ -n "$signal" ] && [ ! -e result.json ]; then
    code=$((128 + signal))
  fi
  # Slurm signals the ranks before this shell: give the reason of their end a moment to arrive.
  if [ "$code" -ne 0 ] && [ -z "$signal" ]; then
    ended=1
    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then suspect; fi
    sleep 1 &
    wait $!
  fi
  finish "$code"
}
"""
).strip()
