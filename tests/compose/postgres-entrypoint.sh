#!/bin/sh
# What the official image's entry point does, as far as the stack uses it: initialise an empty volume, run the scripts
# with a server that listens on the socket alone, start.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086 # several options
  initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" ${POSTGRES_INITDB_ARGS:-} >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --wait --options "-c listen_addresses=''" start >/dev/null
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export PGPASSWORD PGUSER=postgres
  for script in /docker-entrypoint-initdb.d/*.sh; do
    echo "running $script"
    sh "$script"
  done
  pg_ctl --wait --mode fast stop >/dev/null
  unset PGPASSWORD PGUSER
fi
exec "$@" -c listen_addresses='*'
