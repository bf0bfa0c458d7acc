"""Starting scripts in several CPU processes; torchrun is what `accelerate launch` starts as well."""

import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


def launch(script, *arguments, processes=2, timeout=240):
    """Run `script` in `processes` gloo processes and return its standard output; fail with its output if it fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--nnodes", "1",
        "--master_addr", "127.0.0.1", "--master_port", str(port), str(script), *map(str, arguments),
    ]  # fmt: skip
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    return result.stdout


def leave(accelerator):
    """End a script's process without destructors: that of torch 2.6's Gloo group can deadlock (pytorch#154976)."""
    accelerator.wait_for_everyone()
    accelerator.end_training()
    sys.stdout.flush()
    os._exit(0)
