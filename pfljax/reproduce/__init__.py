"""Published tables, run here and held beside what was published.

    from pfljax import reproduce
    replica = reproduce.run("flamby/heart", "data/heart")
    print(replica)

On the command line: `pfljax reproduce flamby/heart --data=data/heart`.
"""

from pfljax.reproduce.claims import Claim, Protocol, Replica, Row, over_seeds
from pfljax.reproduce.command import CLAIMS, add_arguments, from_command_line, run

__all__ = ["CLAIMS", "Claim", "Protocol", "Replica", "Row", "add_arguments", "from_command_line", "over_seeds", "run"]
