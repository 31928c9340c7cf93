"""The ledger's files are cut at every length: what runs is known again or replaced, and nobody has to help."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidespawn.client import Client, NoSuchProcess
from tests.lab.lives import LIMITS, RUNNING, Answers, Life, assert_in_order, settle
from tests.lab.networks import Network, Service

STARTS = 5  # lengths of a record at which a start follows; a status is asked at every one
PAST = 20 # bytes
