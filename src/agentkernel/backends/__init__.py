"""One package per isolation technology; `assembly.BACKENDS` names them."""
