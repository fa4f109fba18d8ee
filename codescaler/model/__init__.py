"""From a checkpoint to a decoder: configuration, tensors, forward."""
