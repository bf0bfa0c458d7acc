"""Diagnostics against closed forms, plain loops, and the streaming form against the one of all rows at once."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import run_processes
from tiny import images, resnet

from hf_diversity import DiversityConfig
from hf_diversity import diagnostics as dg
from hf_diversity.diagnostics.spectrum import symmetric_eigenvalues
