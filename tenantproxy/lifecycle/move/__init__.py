"""How does a tenant come to another server, or get another kind of place, while it is served?"""

from tenantproxy.lifecycle.move.run import Mover
from tenantproxy.lifecycle.move.state import MOVE, MOVE_STEPS, MoveEvent, MoveState
from tenantproxy.lifecycle.move.tools import Moved, MoveFailed, MoveOptions

__all__ = ["MOVE", "MOVE_STEPS", "MoveEvent", "MoveFailed", "MoveOptions", "MoveState", "Moved", "Mover"]
