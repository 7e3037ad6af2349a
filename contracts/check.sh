#!/bin/sh
# Everything that CI asks of the contracts. Needs node (20 or newer), npm and python3; fetches the rest by itself.
#   contracts/check.sh [install|build|test|artifacts|slither|all]
set -eu

cd "$(dirname "$0")"
SLITHER_VERSION=0.11.6
SLITHER_VENV="${XDG_CACHE_HOME:-$HOME/.cache}/trellis-slither-$SLITHER_VERSION"
PATH="$PWD/node_modules/@foundry-rs/forge-linux-amd64/bin:$PATH"
export PATH

say() { printf '== contracts: %s\n' "$1"; }

# Fetches the compiler, forge and the library at the versions of package-lock.json.
install() {
    if [ ! -x node_modules/@foundry-rs/forge-linux-amd64/bin/forge ] || ! cmp -s package-lock.json node_modules/.trellis-lock; then
        say "npm ci"
        npm ci --ignore-scripts --no-audit --no-fund
        cp package-lock.json node_modules/.trellis-lock
    fi
}

build() {
    install
    say "forge build"
    forge build --quiet
}

# FORGE_SNAPSHOT_CHECK holds the gas figures in snapshots/ to what is checked in.
tests() {
    install
    say "forge test"
    FORGE_SNAPSHOT_CHECK=true forge test
}

# The checked-in artifacts are what this source compiles to, byte for byte.
artifacts() {
    build
    say "artifacts"
    node script/artifacts.js
    git diff --exit-code --stat -- artifacts || { say "artifacts differ from the source"; return 1; }
    untracked=$(git ls-files --others --exclude-standard -- artifacts)
    [ -z "$untracked" ] || { say "artifacts not checked in: $untracked"; return 1; }
    say "artifacts are reproduced"
}

slither() {
    install
    if [ ! -x "$SLITHER_VENV/bin/slither" ]; then
        say "pip install slither-analyzer==$SLITHER_VERSION"
        python3 -m venv "$SLITHER_VENV"
        "$SLITHER_VENV/bin/pip" install --quiet --disable-pip-version-check "slither-analyzer==$SLITHER_VERSION"
    fi
    say "slither: no medium or high finding"
    # Its own output folder: forge leaves half of the build info when it has the rest in its cache.
    rm -rf cache/slither
    FOUNDRY_OUT=cache/slither/out FOUNDRY_CACHE_PATH=cache/slither/cache forge build --quiet --build-info --skip test
    "$SLITHER_VENV/bin/slither" . --ignore-compile --foundry-out-directory cache/slither/out --filter-paths 'node_modules|test' \
        --exclude-informational --exclude-optimization --exclude-low --fail-medium
}

case "${1:-all}" in
    install) install ;;
    build) build ;;
    test) tests ;;
    artifacts) artifacts ;;
    slither) slither ;;
    all) artifacts; tests; slither ;;
    *) echo "usage: $0 [install|build|test|artifacts|slither|all]" >&2; exit 2 ;;
esac
