"""``python -m vjepa_ac_planner``: the same as ``vjepa-ac``, where the script is not on the path."""

import sys

from vjepa_ac_planner.cli.main import main

sys.exit(main())
