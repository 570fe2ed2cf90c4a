"""The benchmark beside other simulators, see `rivals`."""
