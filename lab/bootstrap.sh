# Sourced by ./demo and ./test: the one thing they need before they can install the rest.
if ! command -v python3 >/dev/null; then
    echo "installing: python3"
    as_root=""
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -q
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3
fi
