"""Reinforcement learning for designs: environments, graph policies, training with or without Ray.

Importing this package registers its environments with Gymnasium where that is installed, so that
``gymnasium.make("rl:surco/NetworkPlanning-v0")`` works.
"""

from importlib.util import find_spec

if find_spec("gymnasium") is not None:
    import gymnasium

    gymnasium.register(
        "surco/NetworkPlanning-v0",
        entry_point="rl.planning_env:NetworkPlanningEnv",
        vector_entry_point="rl.vector_env:VectorPlanningEnv",
    )
    gymnasium.register(
        "surco/TableSharding-v0",
        entry_point="rl.sharding_env:ShardingEnv",
        vector_entry_point="rl.sharding_env:ShardingVectorEnv",
    )
