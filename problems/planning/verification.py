"""What the independent judge of plans says of a saved design, for ``surco verify --with flows``."""

from __future__ import annotations

from problems.planning.instance import PlanningInstance
from problems.planning.judge import judge
from problems.planning.plan import Plan
from surco.protocols import Verification

PRICE_TOLERANCE = 1e-9  # relative


def verify_flows(instance: PlanningInstance, plan: Plan, *, claimed: float | None) -> Verification:
    """Judge a plan without memory of any other: flows of every demand in every failure, added up against capacities.

    Args:
        instance: as given.
        plan: counts of modules.
        claimed: value that must be the plan's price; None where the objective is something else than the price.

    Returns:
        Confirmed if every rule is kept, every failure that is not excused is survived, and the price is the claimed
        one. Facts: the price, states survived of all, the largest share of a capacity that any state uses, failures
        excused because they disconnect a demand; and what is wrong, in words.
    """
    verdict = judge(instance, plan)
    survived = [state for state in verdict.states if state.is_survived]
    facts: dict[str, float | int | str] = {
        "price": verdict.cost,
        "states": len(verdict.states),
        "states_survived": len(survived),
        "states_excused": len(verdict.excused),
        "worst_utilization": max((max(s.utilization.values(), default=0.0) for s in survived), default=0.0),
    }
    wrong = [*verdict.broken_rules, *(f"{s.failure} is not survived" for s in verdict.states if not s.is_survived)]
    if claimed is not None and abs(verdict.cost - claimed) > PRICE_TOLERANCE * max(abs(claimed), 1.0):
        wrong.append(f"the price is not the claimed {claimed:.9g}")
    if wrong:
        facts["problems"] = "; ".join(wrong)
    return Verification(not wrong, facts)
