#!/bin/sh
# Makes the secrets of compose.yaml, each once. The folder is closed to other users of this machine; the files in it are
# readable, as the containers' users, to whom they are mounted one by one, are not its owner.
set -eu
cd "$(dirname "$0")"
mkdir -p -m 700 secrets
for name in pg_admin pg row_key admin app key_acme key_globex; do
    [ -s "secrets/$name" ] || openssl rand -hex 32 >"secrets/$name"
    chmod 644 "secrets/$name"
done
