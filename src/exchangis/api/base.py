"""The two bases of the interface, and every difference between them (contract, "Two bases")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exchangis.api.envelope import DOCUMENTED, FIELD
from exchangis.domain.states import State


@dataclass(frozen=True, slots=True)
class Base:
    """One base. Handlers are the same; they ask here where the answers differ."""

    name: Literal["documented", "field"]
    prefix: str

    @property
    def is_field(self) -> bool:
        return self.name == "field"

    def task_id(self, number: int) -> int | str:
        """An integer as the document prints it; text for deployed clients."""
        return str(number) if self.is_field else number

    def group(self, state: State) -> str:
        """The name of a state's group of tasks in `progress`: the document prints `running`."""
        return "running" if state is State.RUNNING and not self.is_field else state.value

    def metrics_status(self, state: State) -> str:
        """A task's state in `metrics`: in lower case as the document prints it."""
        return state.value if self.is_field else state.value.lower()

    def memory(self, used: int) -> float:
        """Bytes as GB; as MB for deployed clients."""
        return round(used / 2**20, 1) if self.is_field else round(used / 2**30, 3)


BASES = (Base("documented", DOCUMENTED), Base("field", FIELD))
