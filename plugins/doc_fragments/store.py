# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options shared by every module that reads or writes backups."""

from __future__ import annotations

import textwrap
from typing import ClassVar

STORE = r"""
  store_path:
    description:
      - A store in a folder of this host. It must exist, so that a forgotten mount is noticed.
      - Give this or O(store_s3).
    type: path
  store_s3:
    description: A store in a bucket of S3, or of a server that speaks S3.
    type: dict
    suboptions:
      bucket:
        description: Name of the bucket. It must exist.
        type: str
        required: true
      prefix:
        description: Everything is kept below this name.
        type: str
        default: ""
      endpoint_url:
        description: Where the server is; without it Amazon's own.
        type: str
      region:
        description: The bucket's region.
        type: str
      access_key:
        description: Name of the key; without it what boto3 finds on this host (a profile, an instance's role).
        type: str
      secret_key:
        description: The key's secret. From a lookup, never a literal.
        type: str
      ca_bundle:
        description: File with the certificate authority of a server of your own.
        type: path
      server_side_encryption:
        description: Ask the server to encrypt what it keeps.
        type: str
        choices: [AES256, "aws:kms"]
      kms_key_id:
        description: The key of AWS KMS, with V(aws:kms).
        type: str
      object_lock_mode:
        description:
          - Nobody can destroy what is stored for O(store_s3.object_lock_days). The bucket must have been made for it.
          - Whoever may remove objects can still hide them behind delete markers; docs/stores.md tells the way back.
        type: str
        choices: [governance, compliance]
      object_lock_days:
        description: How long, in days.
        type: int
  store_recipients:
    description:
      - Files on this host with a public GPG key each. Files are encrypted to all of them on their way into the store,
        and any one of the keys opens them.
    type: list
    elements: path
    default: []
  store_keyring:
    description: Where the secret keys are that open encrypted backups. Making one needs none.
    type: dict
    suboptions:
      home:
        description: GnuPG's home directory; without it this user's own.
        type: path
      passphrase:
        description: Opens the secret key, where no agent does. From a lookup, never a literal.
        type: str
  store_work_directory:
    description:
      - Where plain data lie for a while, in a folder of mode 0700 that is always removed, when the store is a bucket or
        encrypted. Put it on a tmpfs or an encrypted disk where that matters. By default a folder below /var/tmp.
    type: path
  store_maximum_bytes_per_second:
    description:
      - Cap of what one call sends into a bucket, all files of this database together, and of a copy from or to this
        store. Calls for several databases at once have one each.
    type: int
"""
OF_TARGET = r"""
  system:
    description: The inventory's own name; a folder in the store.
    type: str
    required: true
  target:
    description: The inventory host of the database; a folder below O(system).
    type: str
    required: true
requirements:
  - boto3 >= 1.40 for O(store_s3)
  - GnuPG >= 2.2 for O(store_recipients)
"""


class ModuleDocFragment:
    """Where the backups of a target are."""

    # Annotated: the sanity tests read plain assignments as they stand, and these are put together.
    DOCUMENTATION: ClassVar[str] = f"options:{STORE.rstrip()}{OF_TARGET}"

    # A second store, which is only read.
    SOURCE: ClassVar[str] = rf"""
options:
  source:
    description: The store that is only read; its paths are those of the host where the module works.
    type: dict
    required: true
    suboptions:
{textwrap.indent(STORE.strip(chr(10)), "    ")}"""
