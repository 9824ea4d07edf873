"""schemathesis over every operation of the OpenAPI document, all its checks, a fixed seed: what is allowed is answered as
the document says, what is not is refused as it says, and nothing is a server's error."""

import os
import pathlib
import subprocess
import sys
import tempfile

URL = sys.argv[1]
HERE = pathlib.Path(__file__).parent
# One worker: in Python 3.11 and early 3.12 two threads that parse Python at once, as its strategies do, may end in a
# SystemError (cpython #106905).
COMMAND = [
    sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", f"{URL}/openapi.json",
    "--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "7",
    "--generation-database", "none", "--request-timeout", "20", "--workers", "1", "--no-color",
]

environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(HERE)}
with tempfile.TemporaryDirectory() as scratch:
    ran = subprocess.run(COMMAND, env=environment, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(ran.stdout[-20000:])
if ran.returncode:
    sys.exit(f"schemathesis ended with {ran.returncode}")
print("all is well")
