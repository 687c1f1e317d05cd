"""The environment variables of a job, checked before ps-lite reads them: where they are wrong, it
waits forever, or ends with a stack trace."""

import os
import socket
import time
from typing import Optional

from model import ModelError
from model.job.watch import Watch

ROLES = ("scheduler", "server", "worker")
_NUMBERS = ("DMLC_NUM_WORKER", "DMLC_NUM_SERVER", "DMLC_PS_ROOT_PORT")


def role_of_this_process(kv_store: str) -> Optional[str]:
    """Return DMLC_ROLE, None for a run of one worker. Raises ModelError if a variable is wrong."""
    role = os.environ.get("DMLC_ROLE")
    if "dist" not in kv_store:
        if role:
            raise ModelError(
                f"DMLC_ROLE={role}, of a job of several workers, but --kv-store {kv_store} trains "
                "by itself: give --kv-store dist_sync, or unset DMLC_ROLE"
            )
        return None
    for name in ("DMLC_ROLE", "DMLC_PS_ROOT_URI", *_NUMBERS):
        if not os.environ.get(name):
            raise ModelError(
                f"--kv-store {kv_store}: {name} is not set: start the job with model/launch/, "
                "or MXNet's launch.py"
            )
    if role not in ROLES:
        raise ModelError(f"DMLC_ROLE={role}: must be one of {', '.join(ROLES)}")
    for name in _NUMBERS:
        value = os.environ[name]
        if not value.isdigit() or not 0 < int(value) < 1 << 16:
            raise ModelError(f"{name}={value}: must be a whole number from 1 to 65535")
    _check_addresses(role)
    return role


def _check_addresses(role: str) -> None:
    interface = os.environ.get("DMLC_INTERFACE")
    if interface and interface not in {name for _, name in socket.if_nameindex()}:
        raise ModelError(f"DMLC_INTERFACE={interface}: this machine has no such interface")
    if role == "scheduler":
        return
    host = os.environ.get("DMLC_NODE_HOST")
    if host:
        check_bind("DMLC_NODE_HOST", host, 0)
    port = os.environ.get("PORT")
    if port:
        if not port.isdigit() or int(port) >= 1 << 16:
            raise ModelError(f"PORT={port}: ps-lite listens there: must be a port, or unset")
        check_bind("PORT", host or "0.0.0.0", int(port))


def check_bind(name: str, host: str, port: int) -> None:
    """Raise ModelError if this process can't listen at host:port, which variable `name` says. Port
    0: at any port."""
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        where = f"{host}:{port}" if port else host
        raise ModelError(f"{name}: can't listen at {where}: {error.strerror}") from None


def number_of(role: str) -> int:
    """Return how many there are of "worker" or "server" in the job."""
    return int(os.environ[f"DMLC_NUM_{role.upper()}"])


def resolve_scheduler(watch: Watch) -> None:
    """Have DMLC_PS_ROOT_URI say an address: ps-lite waits forever for a name that has none (yet),
    and can listen at none."""
    name = os.environ["DMLC_PS_ROOT_URI"]
    watch.waits_for(f"an address of DMLC_PS_ROOT_URI={name}")
    while True:
        try:
            os.environ["DMLC_PS_ROOT_URI"] = socket.gethostbyname(name)
            return watch.rests()
        except OSError:
            time.sleep(0.5)
