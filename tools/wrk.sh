#!/bin/sh
# See that there is a load generator for the bench: Debian's `wrk` as root. Without one the bench's own client makes the
# load, slower than the fastest servers that it measures; that is said.
set -eu
if command -v wrk >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing wrk for the bench …" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends wrk; } >/dev/null 2>&1 || true
    if command -v wrk >/dev/null 2>&1; then exit 0; fi
fi
echo "No wrk was found and none could be installed: the bench makes its load itself, in Python, and may be what limits the" >&2
echo "rates. Install one (Debian: apt-get install wrk) for figures that mean something." >&2
