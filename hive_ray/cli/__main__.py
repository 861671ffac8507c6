"""``python -m hive_ray.cli``."""

from hive_ray.cli import main

main()
