"""What the command lines of edge and hub share: lazy commands, exit codes, output, reading the contract's answers."""
