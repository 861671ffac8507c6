"""Faults that happen at a moment: processes die, stop and continue, clocks jump, stores fail for a while."""

from __future__ import annotations

from collections.abc import Callable

from hive_ray.testing import ScriptedWorker
from tests.simulation.controller import Controller
from tests.simulation.moves import Move
from tests.simulation.storage import damaged, says_the_same
from tests.simulation.world import World

HOUR_US = 3_600_000_000


def set_rates(world: World) -> None:
    """Faults that may meet every message, operation or step."""
    plan = world.plan
    rate = plan.rate
    network, weather, outside = world.network, world.weather, world.outside
    network.lost = rate if plan.has("lost") else 0.0
    network.late = rate if plan.has("late") else 0.0
    network.doubled = rate if plan.has("doubled") else 0.0
    weather.error = rate if plan.has("store_error") else 0.0
    weather.lost = rate if plan.has("lost_ack") else 0.0
    outside.failure_rate = 0.12 if plan.has("step_failure") else 0.0
    outside.slow_rate = rate if plan.has("slow_step") else 0.0


def _after(world: World, most_us: int, happens: Callable[[], object]) -> None:
    world.clock.after(int(world.chance.random() * most_us), lambda: (happens(), None)[1])


# --- controllers


def _controller(world: World) -> Controller | None:
    alive = world.alive
    return alive[int(world.chance.random() * len(alive))] if alive else None


def crash(world: World) -> bool:
    controller = _controller(world)
    if controller is None:
        return False
    controller.process.kill()
    return True


def light_fuse(world: World) -> bool:
    """It ends between two of its next actions."""
    controller = _controller(world)
    if controller is None or controller.process.fuse:
        return False
    controller.process.fuse = 1 + int(world.chance.random() ** 2 * 60)
    return True


def stop_controller(world: World) -> bool:
    """SIGSTOP; another one takes over, and the old one goes on later as if nothing had been."""
    controller = _controller(world)
    if controller is None or controller.process.stopped:
        return False
    controller.process.stop()
    _after(world, 3_000_000, controller.process.go_on)
    if world.chance.random() < 0.7:
        _after(world, 500_000, world.start_controller)
    return True


def start_rival(world: World) -> bool:
    """Another cluster takes over while the owner lives; or asks whether it may."""
    if len(world.alive) > 2:
        return False
    world.start_controller("cluster-2", take_over=world.chance.random() < 0.7)
    return True


# --- workers


def _worker(world: World) -> ScriptedWorker | None:
    alive = world.live_workers()
    return alive[int(world.chance.random() * len(alive))] if alive else None


def kill_worker(world: World) -> bool:
    worker = _worker(world)
    if worker is None:
        return False
    worker.process.kill()
    return True


def stop_worker(world: World) -> bool:
    worker = _worker(world)
    if worker is None or worker.process.stopped:
        return False
    worker.process.stop()
    _after(world, 16_000_000, worker.process.go_on)
    return True


# --- the store and time


def store_down(world: World) -> bool:
    world.weather.down = True
    _after(world, 1_500_000, lambda: setattr(world.weather, "down", False))
    return True


def disk_full(world: World) -> bool:
    world.weather.full = True
    _after(world, 1_500_000, lambda: setattr(world.weather, "full", False))
    return True


def wall_jump(world: World) -> bool:
    back = world.chance.random() < 0.5
    world.clock.jump(int((-1 if back else 1) * world.chance.random() * HOUR_US))
    return True


def stall(world: World) -> bool:
    """Seconds or hours pass in which nothing runs: timers expire meanwhile."""
    long = world.chance.random() < 0.1
    world.clock.stall(int(world.chance.random() * (80 * HOUR_US if long else 15_000_000)))
    return True


def rot(world: World) -> bool:
    """With the controllers dead, an object at rest is cut short or changed."""
    if world.storage.damaged:
        return False
    for controller in list(world.alive):
        controller.process.kill()
    needed = world.storage.needed()
    if not needed:
        return False
    name = needed[int(world.chance.random() * len(needed))]
    data = world.storage.raw.get(name)
    worse = damaged(data, world.chance.random())
    if says_the_same(name, data, worse):
        return False
    world.storage.damaged[name] = data
    world.storage.raw.put(name, worse)
    return True


MOVES = (
    Move("crash", 1, crash, "crash"),
    Move("fuse", 1, light_fuse, "fuse"),
    Move("zombie", 1, stop_controller, "zombie"),
    Move("rival", 1, start_rival, "rival"),
    Move("worker_death", 1, kill_worker, "worker_death"),
    Move("worker_stop", 1, stop_worker, "worker_stop"),
    Move("store_down", 1, store_down, "store_down"),
    Move("disk_full", 1, disk_full, "disk_full"),
    Move("wall_jump", 1, wall_jump, "wall_jump"),
    Move("stall", 1, stall, "stall"),
    Move("rot", 1, rot, "rot"),
)
