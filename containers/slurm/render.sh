#!/bin/bash
# Render what the daemons read into /run/trainyard, which is the container's own. Sourced by entrypoint.sh.

readonly RUN=/run/trainyard
readonly TEMPLATES=/opt/trainyard/slurm/templates

# die WHAT: say what is wrong and what to do, and end.
die() {
  echo "slurm container: $1" >&2
  exit 64
}

# copy_secret NAME TARGET MODE: copy a mounted secret, which the container's user must be able to read.
copy_secret() {
  local path="${TRAINYARD_SECRETS:-/run/secrets}/$1"
  [ -r "$path" ] || die "secret $path is missing or not readable for uid $(id -u): mount it (docs/containers.md)"
  install -m "$3" "$path" "$2"
}

# render TEMPLATE TARGET MODE NAME=VALUE...: replace every @NAME@ and leave none.
render() {
  local text target=$2 mode=$3 pair
  text=$(<"$TEMPLATES/$1")
  shift 3
  for pair in "$@"; do
    text=${text//"@${pair%%=*}@"/"${pair#*=}"}
  done
  if [[ $text =~ @[A-Z_]+@ ]]; then
    die "$target: nothing replaces ${BASH_REMATCH[0]}"
  fi
  (umask 077 && printf '%s\n' "$text" >"$target.partial")
  chmod "$mode" "$target.partial"
  mv "$target.partial" "$target"
}

whole_number() {
  [[ ${!1} =~ ^[1-9][0-9]*$ ]] || die "$1 = '${!1}': must be a whole number, 1 or more"
}

render_slurm_conf() {
  : "${SLURM_CONTROLLER:=slurmctld}" "${SLURM_NODES:=slurm-node-1,slurm-node-2}"
  : "${SLURM_NODE_CPUS:=1}" "${SLURM_NODE_MEMORY_MB:=4096}" "${SLURM_ACCOUNTING:=}"
  whole_number SLURM_NODE_CPUS
  whole_number SLURM_NODE_MEMORY_MB
  local accounting='AccountingStorageType=accounting_storage/none'
  if [ -n "$SLURM_ACCOUNTING" ]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$SLURM_ACCOUNTING
AccountingStoragePass=$RUN/munge/socket
AccountingStoreFlags=job_comment"
  fi
  render slurm.conf "$RUN/slurm/slurm.conf" 0644 \
    "CONTROLLER=$SLURM_CONTROLLER" "NODES=$SLURM_NODES" "CPUS=$SLURM_NODE_CPUS" \
    "MEMORY=$SLURM_NODE_MEMORY_MB" "MEMORY_PER_CPU=$((SLURM_NODE_MEMORY_MB / SLURM_NODE_CPUS))" \
    "ACCOUNTING=$accounting"
  # Slurm 24.11 (Debian 13) looks for a cgroup at its start unless told not to; 22.05 does not know the word.
  local version
  version=$(sinfo --version)
  if [[ $version =~ ^slurm\ ([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 24 ]; then
    echo CgroupPlugin=disabled >"$RUN/slurm/cgroup.conf"
  fi
}

render_slurmdbd_conf() {
  local password
  copy_secret slurm_db_password "$RUN/slurm/db_password" 0400
  password=$(<"$RUN/slurm/db_password")
  # Slurm's parser takes quotes, # and \ for its own.
  [[ $password =~ ^[A-Za-z0-9._~+/=-]+$ ]] ||
    die "secret slurm_db_password: slurmdbd.conf can hold letters, digits and . _ ~ + / = - only"
  render slurmdbd.conf "$RUN/slurm/slurmdbd.conf" 0600 \
    "HOST=$(hostname)" "DB_HOST=${SLURM_DB_HOST:-slurm-accounting-db}" "DB_PORT=${SLURM_DB_PORT:-3306}" \
    "DB_USER=${SLURM_DB_USER:-slurm}" "DB_NAME=${SLURM_DB_NAME:-slurm_acct}" \
    "DB_PASSWORD=$password"
}

render_ssh() {
  (umask 077 && mkdir -p "$RUN/ssh")
  copy_secret slurm_ssh_host_key "$RUN/ssh/host_key" 0600
  copy_secret slurm_ssh_authorized_keys "$RUN/ssh/authorized_keys" 0600
  render sshd_config "$RUN/ssh/sshd_config" 0600 "SSH_PORT=${SLURM_SSH_PORT:-2222}"
}

render_munge() {
  (umask 022 && mkdir -p "$RUN/munge")
  copy_secret slurm_munge_key "$RUN/munge/key" 0400
}
