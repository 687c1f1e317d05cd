#!/usr/bin/env bash
# The front door.
#   ./run.sh             set up, train on real images, stop, resume, draw the curves
#   ./run.sh setup       only set up: .venv, with MXNet for this machine
#   ./run.sh test [...]  set up what the tests need and run them ([...]: arguments of pytest)
#   ./run.sh train ...   train_xception.py with these arguments
#   ./run.sh lint        check the style and the types
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "$*"; }
die() { printf 'run.sh: error: %s\n' "$*" >&2; exit 1; }

# Whether "$1" is a Python that MXNet 1.9.1 has wheels for and that can make an environment.
usable() {
  "$1" -c '
import sys, ensurepip, venv
sys.exit(not (3, 8) <= sys.version_info < (3, 12))' >/dev/null 2>&1
}

# Print how to call uv, which brings a Python where the machine has none that will do. It is taken
# from the machine or installed into .venv-uv with whatever pip there is.
find_uv() {
  local python uv
  for uv in uv .venv-uv/bin/uv; do
    if command -v "$uv" >/dev/null; then echo "$uv"; return; fi
  done
  for python in python3 python3.{14,13,12,11,10,9,8}; do
    command -v "$python" >/dev/null || continue
    if "$python" -m venv .venv-uv >/dev/null 2>&1; then
      .venv-uv/bin/python -m pip install -q uv >&2 && { echo .venv-uv/bin/uv; return; }
    fi
    rm -rf .venv-uv
    if "$python" -m pip --version >/dev/null 2>&1; then
      "$python" -m pip install -q --target .venv-uv uv >&2 && { echo .venv-uv/bin/uv; return; }
    fi
  done
  die "no Python 3.8 to 3.11 with venv here, and no pip or venv to get uv with, which would bring \
one; on Debian and Ubuntu: apt install python3-venv"
}

make_venv() {
  local python uv
  rm -rf .venv
  for python in python3.{11,10,9,8} python3; do
    if usable "$python"; then
      say "setup: .venv with $("$python" --version)"
      "$python" -m venv .venv
      return
    fi
  done
  uv=$(find_uv)
  say "setup: .venv with a Python 3.11 from uv"
  "$uv" venv -q --seed --python 3.11 .venv || die "uv could not bring a Python 3.11"
}

has_driver() {
  [ -e /proc/driver/nvidia/version ] || PATH=$PATH:/sbin ldconfig -p 2>/dev/null | grep 'libcuda\.so\.1' >/dev/null
}

# Install requirements files into an environment, unless these very files are installed already.
install() {
  local environment=$1 stamp=$1/installed-$2 wanted
  shift 2
  wanted=$(cat "$@" | cksum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  say "setup: installing $*"
  "$environment/bin/python" -m pip install -q --disable-pip-version-check "${@/#/-r}" || return
  echo "$wanted" >"$stamp"
}

setup() {
  # A folder that was moved has scripts with the old path in them: python itself still works.
  .venv/bin/python -c '' 2>/dev/null || make_venv
  if has_driver; then
    install .venv mxnet requirements.txt
  else
    install .venv mxnet requirements-cpu.txt
  fi
  .venv/bin/python -m model.devices >/dev/null
}

python() { .venv/bin/python "$@"; }

usage() { sed -n '3,7s/^# *//p' "$0"; }

demo() {
  local prefix=model/demo log=log/demo.log status=0 pid accuracy
  local arguments=(--data-type digits --batch-size 64 --model-prefix "$prefix" --log-file "$log"
    --frequent 10)
  setup
  say "== real images: the UCI handwritten digits"
  python -m data.digits.prepare
  say "== training, to be stopped in the middle"
  rm -f "$log"
  .venv/bin/python -u train_xception.py "${arguments[@]}" --overwrite &
  pid=$!
  until grep -qs 'Epoch\[4\] Batch' "$log"; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid" || status=$?
  [ "$status" != 130 ] || exit 130
  [ "$status" = 143 ] || die "the training ended with exit code $status, not by the signal"
  say "== resuming"
  python -u train_xception.py "${arguments[@]}" --retrain
  python -m log.plot_curves "$log" --out log/demo.png >/dev/null
  accuracy=$(sed -n 's/.*best validation accuracy \([0-9.]*\),.*/\1/p' "$log" | tail -n 1)
  awk "BEGIN { exit !($accuracy >= 0.97) }" || die "validation accuracy $accuracy, below 0.97"
  say ""
  say "Validation accuracy $accuracy on 360 handwritten digits."
  say "  model  $prefix-best.params, $prefix-symbol.json"
  say "  log    $log"
  say "  curve  log/demo.png"
  say "Next, five more epochs:"
  say "  ./run.sh train ${arguments[*]} --num-epochs 15 --retrain"
  say "or your own images, as README.md says, after:"
  say "  source .venv/bin/activate"
}

case "${1-}" in
  "") demo ;;
  setup)
    setup
    say "ready; the commands of README.md need, in each terminal: source .venv/bin/activate"
    ;;
  train)
    shift
    [ -x .venv/bin/python ] || setup
    # In the shell's place, so that signals reach it.
    exec .venv/bin/python -u train_xception.py "$@"
    ;;
  test)
    shift
    setup
    install .venv tests tests/requirements.txt
    if python -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
      .venv-keras3/bin/python -c '' 2>/dev/null || python -m venv --clear .venv-keras3
      install .venv-keras3 tests tests/requirements-keras3.txt
    fi
    if python -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
      .venv-torch/bin/python -c '' 2>/dev/null || python -m venv --clear .venv-torch
      # timm without what it needs for data and downloads alone, torchvision above all.
      if ! { install .venv-torch tests tests/requirements-torch.txt \
        && PIP_NO_DEPS=1 install .venv-torch timm tests/requirements-timm.txt; }; then
        say "setup: no PyTorch: the tests against timm are skipped"
      fi
    fi
    # 2 GB of wheels, for the test that is marked as slow. From nothing if requirements.txt has
    # changed: it is what the test is about.
    if [[ $* != *"not slow"* ]]; then
      if ! .venv-cuda/bin/python -c '' 2>/dev/null \
        || [ "$(cat .venv-cuda/installed-cuda 2>/dev/null)" != "$(cksum <requirements.txt)" ]; then
        python -m venv --clear .venv-cuda
      fi
      install .venv-cuda cuda requirements.txt
    fi
    python -m pytest "$@"
    ;;
  lint)
    setup
    install .venv tests tests/requirements.txt
    python -m ruff check .
    python -m ruff format --check .
    python -m mypy
    ;;
  -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
