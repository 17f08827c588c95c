"""What a hub serves: engines that decide (mover, placement, view, calls), drivers that act, servicers that speak gRPC."""
