# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that recover clusters to a point in time."""

from __future__ import annotations


class ModuleDocFragment:
    """Which cluster, and where its repository is."""

    DOCUMENTATION = r"""
options:
  data_directory:
    description: Data directory of the live cluster. The restored one stands beside it, so its parent must be writable.
    type: path
    required: true
  config:
    description: pgBackRest's configuration. It may hold keys, so nobody but the server's user should read it.
    type: path
    required: true
  stanza:
    description: Name of the cluster in that configuration.
    type: str
    required: true
  postgresql_bin_directory:
    description: Folder with the server's programs, when not in the distribution's place.
    type: path
"""
