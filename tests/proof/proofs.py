"""All proofs by their names, and what each needs of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.proof.clock_jump import clock_jump
from tests.proof.clock_steps import clock_steps
from tests.proof.disk_errors import disk_errors
from tests.proof.every_call import every_call
from tests.proof.follower import follower
from tests.proof.full_disk import full_disk
from tests.proof.hostile_requests import hostile_requests
from tests.proof.images import images
from tests.proof.kills import kills
from tests.proof.listeners import listeners
from tests.proof.long_wal import long_wal
from tests.proof.lost_clients import lost_clients
from tests.proof.machine import Need
from tests.proof.migrate_together import migrate_together
from tests.proof.nodes_faults import nodes_cut, nodes_kill, nodes_stop
from tests.proof.nodes_partition import nodes_partition
from tests.proof.odd_input import odd_input
from tests.proof.operator import operator
from tests.proof.outcome import Outcome, Scale
from tests.proof.owners import owners
from tests.proof.power_cuts import power_cuts
from tests.proof.retention import retention
from tests.proof.server_faults import failover, server_frozen, server_kill, standby_away
from tests.proof.server_full import server_full
from tests.proof.slow_clients import slow_clients
from tests.proof.slow_disk import slow_disk
from tests.proof.unwritable import unwritable


class Proof(NamedTuple):
    """One fault, tried as often as the scale says: ``run(seed, scale, folder)``."""

    name: str
    run: Callable[[int, Scale, Path], Outcome]
    needs: tuple[Need, ...] = ()
    long: bool = False
    """Whether its short form too takes half a minute: `make proof` alone runs it."""


PROOFS = (
    Proof("kills", kills),
    Proof("listeners", listeners),
    Proof("follower", follower),
    Proof("retention", retention),
    Proof("every-call", every_call, (Need.STRACE,)),
    Proof("disk-errors", disk_errors, (Need.STRACE,)),
    Proof("power-cuts", power_cuts, (Need.ROOT, Need.STRACE, Need.LOOP)),
    Proof("images", images, (Need.STRACE,)),
    Proof("full-disk", full_disk, (Need.ROOT, Need.LOOP, Need.TMPFS)),
    Proof("slow-disk", slow_disk, (Need.STRACE,)),
    Proof("unwritable", unwritable, (Need.ROOT, Need.TMPFS, Need.PRLIMIT)),
    Proof("clock-steps", clock_steps, (Need.FAKETIME,)),
    Proof("owners", owners),
    Proof("operator", operator, (Need.POSTGRES,)),
    Proof("slow-clients", slow_clients, (Need.PRLIMIT,)),
    Proof("lost-clients", lost_clients),
    Proof("hostile-requests", hostile_requests),
    Proof("odd-input", odd_input, long=True),
    Proof("long-wal", long_wal, (Need.WRK,), long=True),
    Proof("nodes-kill", nodes_kill, (Need.POSTGRES,)),
    Proof("nodes-stop", nodes_stop, (Need.POSTGRES,), long=True),
    Proof("nodes-cut", nodes_cut, (Need.POSTGRES,)),
    Proof("nodes-partition", nodes_partition, (Need.POSTGRES, Need.ROOT, Need.NETNS), long=True),
    Proof("migrate-together", migrate_together, (Need.POSTGRES,), long=True),
    Proof("server-kill", server_kill, (Need.POSTGRES,)),
    Proof("server-full", server_full, (Need.POSTGRES, Need.ROOT, Need.LOOP, Need.TMPFS), long=True),
    Proof("server-frozen", server_frozen, (Need.POSTGRES,), long=True),
    Proof("failover", failover, (Need.POSTGRES,), long=True),
    Proof("standby-away", standby_away, (Need.POSTGRES,), long=True),
    Proof("clock-jump", clock_jump, (Need.POSTGRES, Need.FAKETIME), long=True),
)
