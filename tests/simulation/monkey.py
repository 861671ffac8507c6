"""Faults that happen at a moment: processes die, stop and continue, clocks jump, stores fail for a while."""

from __future__ import annotations

from collections.abc import Callable

from hive_ray.errors import Corrupt
from hive_ray.state import frames
from hive_ray.testing import ScriptedWorker
from tests.simulation.controller import Controller
from tests.simulation.world import World

HOUR_US = 3_600_000_000


class Monkey:
    """Draws one fault after the other from the plan, until the world is calm."""

    def __init__(self, world: World) -> None:
        self.world = world
        plan = world.plan
        self._acts = [act for kind, act in self._all().items() if plan.has(kind)]
        self._next_at = 0
        self._left = 3 + plan.steps // 20
        """Faults that may still come: a history is not made of them alone."""
        """Steps given out at which the next fault may come."""
        self._rates()
        if self._acts:
            self._later()

    def _all(self) -> dict[str, Callable[[], None]]:
        return {
            "crash": self.crash,
            "fuse": self.light_fuse,
            "zombie": self.stop_controller,
            "rival": self.start_rival,
            "worker_death": self.kill_worker,
            "worker_stop": self.stop_worker,
            "store_down": self.store_down,
            "disk_full": self.disk_full,
            "wall_jump": self.wall_jump,
            "stall": self.stall,
            "rot": self.rot,
        }

    def _rates(self) -> None:
        """Faults that may meet every message, operation or step."""
        world, plan = self.world, self.world.plan
        rate = plan.rate
        network, weather, outside = world.network, world.weather, world.outside
        network.lost = rate if plan.has("lost") else 0.0
        network.late = rate if plan.has("late") else 0.0
        network.doubled = rate if plan.has("doubled") else 0.0
        weather.error = rate if plan.has("store_error") else 0.0
        weather.lost = rate if plan.has("lost_ack") else 0.0
        outside.failure_rate = 0.12 if plan.has("step_failure") else 0.0
        outside.slow_rate = rate if plan.has("slow_step") else 0.0

    def _later(self) -> None:
        pause_us = int(self.world.chance.expovariate(1.0) * self.world.plan.every_us)
        self.world.clock.after(pause_us, self._act)

    def _act(self) -> None:
        """Mostly only after some progress: else nothing but faults would happen."""
        world = self.world
        if world.calm or not self._left:
            return
        if world.ledger.started >= self._next_at or world.chance.random() < 0.03:
            self._left -= 1
            self._next_at = world.ledger.started + int(world.chance.expovariate(1.0) * world.plan.every_steps)
            self._acts[int(world.chance.random() * len(self._acts))]()
        self._later()

    # --- controllers

    def _controller(self) -> Controller | None:
        alive = [c for c in self.world.controllers if c.process.alive]
        return alive[int(self.world.chance.random() * len(alive))] if alive else None

    def crash(self) -> None:
        controller = self._controller()
        if controller is not None:
            self.world.count("crash")
            controller.process.kill()

    def light_fuse(self) -> None:
        """It ends between two of its next actions."""
        controller = self._controller()
        if controller is not None and not controller.process.fuse:
            self.world.count("fuse")
            controller.process.fuse = 1 + int(self.world.chance.random() ** 2 * 60)

    def stop_controller(self) -> None:
        """SIGSTOP; another one takes over, and the old one goes on later as if nothing had been."""
        controller = self._controller()
        if controller is None or controller.process.stopped:
            return
        self.world.count("zombie")
        controller.process.stop()
        self._after(3_000_000, controller.process.go_on)
        if self.world.chance.random() < 0.7:
            self._after(500_000, self.world.start_controller)

    def start_rival(self) -> None:
        """Another cluster takes over while the owner lives; or asks whether it may."""
        if sum(controller.process.alive for controller in self.world.controllers) > 2:
            return
        self.world.count("rival")
        self.world.start_controller("cluster-2", take_over=self.world.chance.random() < 0.7)

    def _after(self, most_us: int, happens: Callable[[], object]) -> None:
        self.world.clock.after(int(self.world.chance.random() * most_us), lambda: (happens(), None)[1])

    # --- workers

    def _worker(self) -> ScriptedWorker | None:
        alive = self.world.live_workers()
        return alive[int(self.world.chance.random() * len(alive))] if alive else None

    def kill_worker(self) -> None:
        worker = self._worker()
        if worker is not None:
            self.world.count("worker_death")
            worker.process.kill()

    def stop_worker(self) -> None:
        worker = self._worker()
        if worker is not None and not worker.process.stopped:
            self.world.count("worker_stop")
            worker.process.stop()
            self._after(8_000_000, worker.process.go_on)

    # --- the store and time

    def store_down(self) -> None:
        self.world.count("store_down")
        self.world.weather.down = True
        self._after(1_500_000, self._store_up)

    def _store_up(self) -> None:
        self.world.weather.down = False

    def disk_full(self) -> None:
        self.world.count("disk_full")
        self.world.weather.full = True
        self._after(1_500_000, self._disk_free)

    def _disk_free(self) -> None:
        self.world.weather.full = False

    def wall_jump(self) -> None:
        self.world.count("wall_jump")
        back = self.world.chance.random() < 0.5
        self.world.clock.jump(int((-1 if back else 1) * self.world.chance.random() * HOUR_US))

    def stall(self) -> None:
        """Seconds or hours pass in which nothing runs: timers expire meanwhile."""
        self.world.count("stall")
        long = self.world.chance.random() < 0.1
        self.world.clock.stall(int(self.world.chance.random() * (80 * HOUR_US if long else 5_000_000)))

    def rot(self) -> None:
        """With the controllers dead, an object at rest is cut short or changed."""
        world = self.world
        if world.damaged:
            return
        for controller in world.controllers:
            controller.process.kill()
        needed = world.needed()
        if needed:
            world.count("rot")
            name = needed[int(world.chance.random() * len(needed))]
            data = world.raw.get(name)
            damaged = _damaged(data, world.chance.random())
            if not _says_the_same(name, data, damaged):
                world.damaged[name] = data
                world.raw.put(name, damaged)


def _says_the_same(name: str, data: bytes, damaged: bytes) -> bool:
    """Some bits of a zstd frame mean nothing."""
    try:
        return frames.decompress(name, damaged) == frames.decompress(name, data)
    except Corrupt:
        return False


def _damaged(data: bytes, chance: float) -> bytes:
    place = int(chance * len(data))
    if place % 2:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
