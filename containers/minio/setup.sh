#!/bin/sh
# minio-setup: two buckets, and for each a user that may use it and nothing else. May be run again: rules, policies and
# passwords become what the files say.
set -eu

# mc takes the address with the password from the environment: a command line can be read by everybody.
MC_HOST_stack="http://root:$(cat /run/secrets/minio_root_password)@minio:9000"
export MC_HOST_stack

bucket_with_user() { # bucket, user, file with the user's password, file with the policy
  mc mb --ignore-existing "stack/$1"
  # Without arguments it reads name and password from standard input.
  printf '%s\n%s\n' "$2" "$(cat "$3")" | mc admin user add stack
  mc admin policy create stack "$2" "$4"
  if ! mc admin policy entities stack --user "$2" | grep -q "$2"; then
    mc admin policy attach stack "$2" --user "$2"
  fi
}

bucket_with_user trainyard trainyard /run/secrets/s3_secret_key /setup/policy.json
sed 's#arn:aws:s3:::trainyard#&-mlflow#' /setup/policy.json >/tmp/mlflow.json
bucket_with_user trainyard-mlflow mlflow /run/secrets/mlflow_s3_secret_key /tmp/mlflow.json
mc ilm rule import stack/trainyard </setup/lifecycle.json
echo "buckets trainyard and trainyard-mlflow are ready"
