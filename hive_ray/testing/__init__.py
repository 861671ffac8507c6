"""Public fakes: run parts of hive_ray in tests without a network, a disk or a clock.

``ScriptedModel`` stands for an LLM. ``SimulatedClock``, ``SimulatedProcess``, ``Network``, ``Weather`` and
``ScriptedWorker`` stand for everything around a controller: time that passes only when told, processes that
die or stop between any two of their actions, messages that are lost, late, doubled or out of order, a store
that fails (``GatedStore`` makes any store fail), and workers that do what a script says. All take their
chance from one ``random.Random``.
"""

from hive_ray.testing.clock import SimulatedClock
from hive_ray.testing.gated_store import GatedStore
from hive_ray.testing.model import Asked, Calls, ScriptedAnswer, ScriptedModel
from hive_ray.testing.network import Call, Network
from hive_ray.testing.process import Killed, SimulatedProcess
from hive_ray.testing.weather import Weather
from hive_ray.testing.worker import Performance, ScriptedWorker

__all__ = [
    "Asked",
    "Call",
    "Calls",
    "GatedStore",
    "Killed",
    "Network",
    "Performance",
    "ScriptedAnswer",
    "ScriptedModel",
    "ScriptedWorker",
    "SimulatedClock",
    "SimulatedProcess",
    "Weather",
]
