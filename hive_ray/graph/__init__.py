"""What users write: specs, files, conditions; and the compiler that turns them into plans.

Import from the modules: ``load``, ``builder``, ``compiler``, ``expressions``, ``drawing``.
"""
