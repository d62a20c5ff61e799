# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m lab`."""

from __future__ import annotations

import sys

from lab.cli import main

sys.exit(main())
