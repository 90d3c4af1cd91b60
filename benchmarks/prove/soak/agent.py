"""``python -m benchmarks.prove.soak.agent ARGUMENTS``: the agent, in a hurry by one constant.

A day of the soak is some seconds long. The agent takes a connection for stable, and begins its
delays anew, after ten of them: here after half a second, else one outage would run into the next.
"""

import sys
from unittest.mock import patch

from deepfusion_edge import cli
from deepfusion_edge.report import mqtt

if __name__ == "__main__":
    patch.object(mqtt, "STABLE_S", 0.5).start()
    sys.exit(cli.main(sys.argv[1:]))
