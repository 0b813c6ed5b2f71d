#!/bin/sh
# Lock one set of requirements with hashes, the same for every platform. Usage: tools/lock.sh UV run|build|judge|postgres|rivals|test
# The test set is locked on top of the run set, so that both fit into one environment.
set -eu
uv=$1 part=$2
case $part in
    run) from="pyproject.toml" ;;
    build) from="--group build" ;;
    judge) from="--group judge --no-deps" ;;
    postgres) from="--group postgres --no-deps" ;;
    rivals) from="--group rivals --no-deps" ;;
    test) from="pyproject.toml --group test" ;;
esac
# shellcheck disable=SC2086
"$uv" pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --upgrade \
    --no-annotate --custom-compile-command "make lock" $from -o "requirements/$part.txt"
