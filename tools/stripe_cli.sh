#!/bin/sh
# Print the path of Stripe's own command line, with which the local Stripe is tried, fetching it from npm into .tools
# where that is possible. What is missing is said, and fails.
set -eu
version=1.52.0
if [ -n "${FAREBOX_STRIPE_CLI:-}" ]; then
    if command -v "$FAREBOX_STRIPE_CLI" >/dev/null 2>&1; then command -v "$FAREBOX_STRIPE_CLI"; exit 0; fi
    echo "FAREBOX_STRIPE_CLI is set to $FAREBOX_STRIPE_CLI, which cannot be run." >&2
    exit 1
fi
path="$(pwd)/.tools/node_modules/.bin/stripe"
works() { [ -x "$path" ] && "$path" version 2>/dev/null | grep -q "$version"; }
if works; then echo "$path"; exit 0; fi
if command -v npm >/dev/null 2>&1 && command -v node >/dev/null 2>&1; then
    echo "Fetching the Stripe CLI $version from npm for the tests …" >&2
    mkdir -p .tools
    npm install --silent --no-save --ignore-scripts --prefix .tools "@stripe/cli@$version" >/dev/null 2>&1 || true
    if works; then echo "$path"; exit 0; fi
    echo "npm could not fetch @stripe/cli $version, or it does not run here." >&2
else
    echo "Neither npm nor node was found, with which the Stripe CLI could be fetched." >&2
fi
echo "The Stripe CLI is missing: its tests cannot run. Install Node.js with npm (Debian: apt-get install npm)," >&2
echo "or install the CLI yourself and set FAREBOX_STRIPE_CLI to its path." >&2
exit 1
