#!/usr/bin/env bash
# Train with several processes on this machine, over MXNet's parameter server:
#   model/launch/local.sh [-w WORKERS] [-s SERVERS] [arguments of train_xception.py]
# Default: 2 workers, 1 server, --kv-store dist_sync. All ports that they open are on 127.0.0.1.
# SIGTERM and SIGINT reach the workers. Exit code: 0, or that of the role that failed first; the
# others have GRACE seconds (150) then to end by themselves.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
grace=${GRACE:-150}

die() { printf 'local.sh: error: %s\n' "$*" >&2; exit 2; }

workers=2 servers=1
while [ $# -gt 0 ]; do
  case $1 in
    -w | -s)
      [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "$1: must be a number from 1 up, not '${2-}'"
      if [ "$1" = -w ]; then workers=$2; else servers=$2; fi
      shift 2
      ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) break ;;
  esac
done
command -v "$python" >/dev/null || die "$python is not there: ./run.sh setup makes it"

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
export DMLC_NUM_WORKER=$workers DMLC_NUM_SERVER=$servers
export DMLC_PS_ROOT_URI=127.0.0.1 DMLC_NODE_HOST=127.0.0.1
export DMLC_PS_ROOT_PORT=${DMLC_PS_ROOT_PORT:-$("$python" -c "$free_port")}
if [ -z "${OMP_NUM_THREADS-}" ]; then
  # Each process would take all cores.
  threads=$(($(nproc) / workers))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi

# Each role in a process group of its own: Ctrl-C reaches this shell alone, which passes it on.
set -m
declare -A role_of=()
pids=() worker_pids=()
start() {
  DMLC_ROLE=$1 "$python" -u "$root/train_xception.py" --kv-store dist_sync "${@:2}" </dev/null &
  pids+=($!)
  role_of[$!]=$1
}

trap 'kill -TERM "${worker_pids[@]}" 2>/dev/null || true' TERM
trap 'kill -INT "${worker_pids[@]}" 2>/dev/null || true' INT
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT

start scheduler "$@"
for ((i = 0; i < servers; i++)); do start server "$@"; done
for ((i = 0; i < workers; i++)); do start worker "$@"; worker_pids+=($!); done

code=0 deadline=''
while [ ${#pids[@]} -gt 0 ]; do
  running=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      running+=("$pid")
      continue
    fi
    status=0
    wait "$pid" || status=$?
    unset "role_of[$pid]"
    [ "$status" = 0 ] && continue
    [ "$code" = 0 ] && code=$status
    # A worker that a signal has stopped leaves the others at the same batch: no failure, but the
    # same limit.
    deadline=${deadline:-$((SECONDS + grace))}
  done
  pids=("${running[@]}")
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ] && [ ${#pids[@]} -gt 0 ]; then
    echo "local.sh: $grace seconds after the first failure still there, killed:" \
      "$(for pid in "${pids[@]}"; do printf '%s ' "${role_of[$pid]}"; done)" >&2
    kill -KILL "${pids[@]}" 2>/dev/null || true
    deadline=''
  fi
  [ ${#pids[@]} -eq 0 ] || sleep 0.2
done
trap - EXIT
exit "$code"
