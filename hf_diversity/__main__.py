"""`python -m hf_diversity` is the command `hf-diversity`."""

import sys

from .cli import main

sys.exit(main())
