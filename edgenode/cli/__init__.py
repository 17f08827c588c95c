"""The command line of the device side: `edgenode`."""
