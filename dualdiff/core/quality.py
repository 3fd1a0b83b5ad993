"""How much work recovering sound from a sample may take. Free of torch."""

from typing import Literal, TypeAlias, get_args

Quality: TypeAlias = Literal["draft", "default", "high"]
"""How much work a way back from samples to sound takes upon itself."""
QUALITIES: tuple[Quality, ...] = get_args(Quality)
