# SPDX-License-Identifier: MIT
"""Processing of millions of pictures with Ray: files, URLs, WebDataset shards; output also as Parquet."""

from crfrnn.bulk.engine import RayEngine as RayEngine
from crfrnn.bulk.failed import FAILED as FAILED
from crfrnn.bulk.places import find as find
from crfrnn.bulk.plan import TO as TO
from crfrnn.bulk.plan import Plan as Plan
from crfrnn.bulk.plan import Planner as Planner
from crfrnn.bulk.plan import Unit as Unit
from crfrnn.bulk.run import run as run
from crfrnn.bulk.work import Step as Step
from crfrnn.bulk.work import Work as Work
