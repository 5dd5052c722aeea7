#!/bin/sh
# One database and one owner for each service, and a reader of the results: none can open another's database.
# The image runs it on an empty volume. It may be run again: docker compose exec postgres sh /docker-entrypoint-initdb.d/10-databases.sh
set -eu

PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD PGUSER=postgres

# Passwords go through psql's variables on standard input: a command line can be read by everybody.
ask() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname "$1"
}

account() {
  ask postgres <<SQL
\set name '$1'
\set word '$(cat "/run/secrets/$2")'
SELECT format('CREATE ROLE %I LOGIN', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'word';
SQL
}

database() {
  ask postgres <<SQL
\set name '$1'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"name" TO :"name";
SQL
  ask "$1" <<SQL
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO "$1";
SQL
}

for name in airflow mlflow results; do
  account "$name" "${name}_db_password"
  database "$name"
done

account results_reader results_reader_password
ask results <<SQL
GRANT CONNECT ON DATABASE results TO results_reader;
GRANT USAGE ON SCHEMA public TO results_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO results_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE results IN SCHEMA public GRANT SELECT ON TABLES TO results_reader;
ALTER ROLE results_reader SET default_transaction_read_only = on;
SQL
ask postgres <<SQL
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
REVOKE CONNECT ON DATABASE template1 FROM PUBLIC;
SQL
