"""`python -m agentkernel`."""

import sys

from agentkernel.cli.main import main

sys.exit(main())
