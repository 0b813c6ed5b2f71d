#!/bin/sh
# Print the path of a Chromium that the browser tests can drive, installing one where that is possible:
# Debian's package as root, else the npm package @sparticuz/chromium. What is missing is said, and fails.
set -eu
for name in "${FAREBOX_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then command -v "$name"; exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Chromium for the browser tests …" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends chromium fonts-liberation; } >/dev/null 2>&1 || true
    if command -v chromium >/dev/null 2>&1; then command -v chromium; exit 0; fi
fi
if command -v npm >/dev/null 2>&1 && command -v node >/dev/null 2>&1; then
    echo "Fetching Chromium from npm for the browser tests …" >&2
    mkdir -p .browser
    npm install --silent --no-save --prefix .browser @sparticuz/chromium >/dev/null 2>&1 || true
    if path=$(cd .browser && node --input-type=module \
        -e 'import c from "@sparticuz/chromium"; console.log(await c.executablePath())' 2>/dev/null); then
        echo "$path"; exit 0
    fi
fi
echo "No Chromium was found and none could be installed: the browser tests cannot run." >&2
echo "Install one (Debian: apt-get install chromium), or set FAREBOX_CHROMIUM to its path." >&2
exit 1
